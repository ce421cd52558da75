"""A trained encoder by its name: a run's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from ssl_core import methods, recipes
from ssl_core.errors import InputError
from ssl_core.files import as_path, local_copy
from ssl_core.networks.encoder import Encoder
from ssl_core.recipes import Setting
from ssl_core.recipes.read import parse_override
from ssl_core.schema.run import RunConfig
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.use.subject import Subject

SETTABLE = ("data", "views", "evaluation", "scaling", "tracking", "seed", "name")
"""Sections that may be set for a trained encoder: the others say how it was trained."""


def is_hub(what: str) -> bool:
    """Whether it names weights that are downloaded."""
    return what.startswith(("timm:", "hf-hub:"))


def open_subject(what: str, words: Sequence[str | Setting] = (), checkpoint: int | None = None) -> Subject:
    """The encoder that `what` names, with `KEY=VALUE` words set over its configuration.

    Args:
        what: a run's folder.
        words: `KEY=VALUE`, or settings, of sections that say nothing of how it was trained.
        checkpoint: of a run, the epoch; default: the end.

    Raises:
        InputError: there is none, it cannot be read, or a word is about training.
    """
    place = as_path(what)
    if place.is_dir():
        return _of_run(place.absolute(), words, checkpoint)
    raise InputError(f"WHAT: {what} is no run's folder (looked from {Path.cwd()})")


def _of_run(folder: Path, words: Sequence[str | Setting], checkpoint: int | None) -> Subject:
    file = folder / "config.yaml"
    if not file.is_file():
        raise InputError(f"WHAT: {folder} is no run's folder (it has no config.yaml)")
    config = recipes.load(file, _checked(words, SETTABLE))
    model_file = folder / "model.safetensors"
    own_norms = config.distill is not None and config.distill.per_layer_norm
    if checkpoint is None and model_file.is_file() and not own_norms:
        encoder = Encoder(config.backbone).eval()
        encoder.model.load_state_dict(_tensors(model_file))
        return Subject(config.name, encoder, config, folder, config.optim.epochs)
    return _of_checkpoint(folder, config, checkpoint, ended=model_file.is_file())


def _of_checkpoint(folder: Path, config: RunConfig, epoch: int | None, ended: bool) -> Subject:
    """The encoder of a run as one of its checkpoints has it."""
    store = CheckpointStore(folder, config)
    paths = store.paths()
    if not paths:
        raise InputError(f"WHAT: {folder} has neither model.safetensors nor a checkpoint yet")
    path = paths[-1] if epoch is None else store.path(epoch)
    if path not in paths:
        there = ", ".join(str(number) for number in sorted({_epoch_of(path) for path in paths}))
        raise InputError(f"--checkpoint: {folder} has none of epoch {epoch}; there are those of {there}")
    state = store.load(path)
    method = methods.build(config)
    method.load_state_dict(state["method"])
    method.eval()
    norms = {int(layer): norm for layer, norm in method.norms.items()} if method.encoder is method.student else {}
    unfinished = epoch is None and not ended
    remarks = (f"{folder} has not ended: these are its weights after epoch {state['epoch']}",) if unfinished else ()
    return Subject(config.name, method.encoder, config, folder, int(state["epoch"]), norms, remarks)


def _epoch_of(path: Path) -> int:
    return int(path.stem.split("_")[1])


def _tensors(file: Path) -> dict[str, Any]:
    try:
        with local_copy(file) as local:
            return load_file(local)
    except SafetensorError as error:
        raise InputError(f"{file}: no weights, or damaged ones: {error}") from error


def _checked(words: Sequence[str | Setting], sections: Sequence[str]) -> list[Setting]:
    """The words as settings.

    Raises:
        InputError: one is of no such section.
    """
    settings = [word if isinstance(word, Setting) else parse_override(word) for word in words]
    for setting in settings:
        if setting.parts[0] not in sections:
            raise InputError(
                f"command line: {setting.key}: the encoder is trained; what can be set here: {', '.join(sections)}"
            )
    return settings
