"""A trained encoder by any of its names: a run's folder, a file of weights, a model of timm's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_core import methods, recipes
from ssl_core.errors import InputError
from ssl_core.files import as_path, is_file
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.weights import Fit, backbone_of, is_hub, load_weights, read
from ssl_core.recipes import Setting
from ssl_core.recipes.read import Layer, parse_override
from ssl_core.schema.run import RunConfig
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.use.subject import Subject

SETTABLE = ("data", "views", "evaluation", "scaling", "tracking", "seed", "name")
"""Sections that may be set for a trained encoder: the others say how it was trained."""


OF_ITS_IMAGES = {"val": None, "limit": None, "split": None, "labels": "auto"} | dict.fromkeys(
    ("name_column", "label_column", "label_above")
)
"""Keys of `data` that say something of a run's own images and nothing of others, and what they are for others."""


def open_subject(what: str, words: Sequence[str | Setting] = (), checkpoint: int | None = None) -> Subject:
    """The encoder that `what` names, with `KEY=VALUE` words set over its configuration.

    Args:
        what: a run's folder, a file of weights, or `timm:NAME`, which downloads.
        words: `KEY=VALUE`, or settings, of sections that say nothing of how it was trained; for weights of
            no run also `backbone.name`, and so on.
        checkpoint: of a run, the epoch; default: the end.

    Raises:
        InputError: there is none, it cannot be read, or a word is about training.
    """
    if is_hub(what):
        return _of_weights(what, words, checkpoint, name=what.partition(":")[2].replace("/", "-"))
    place = as_path(what)
    if place.is_dir():
        return _of_run(place.absolute(), words, checkpoint)
    if is_file(place):
        return _of_weights(what, words, checkpoint, name=place.stem)
    raise InputError(
        f"WHAT: {what} is neither a run's folder nor a file of weights (looked from {Path.cwd()}); timm:NAME is one "
        "of timm's models with its published weights"
    )


def _of_run(folder: Path, words: Sequence[str | Setting], checkpoint: int | None) -> Subject:
    file = folder / "config.yaml"
    if not file.is_file():
        raise InputError(f"WHAT: {folder} is no run's folder (it has no config.yaml)")
    settings = _checked(words, SETTABLE)
    if any(setting.key == "data.train" for setting in settings):  # what is said of its own images says nothing of these
        settings = [*(Setting(f"data.{key}", value) for key, value in OF_ITS_IMAGES.items()), *settings]
    config = recipes.load(file, settings)
    model_file = folder / "model.safetensors"
    own_norms = config.distill is not None and config.distill.per_layer_norm
    if checkpoint is None and model_file.is_file() and not own_norms:
        encoder = Encoder(config.backbone).eval()
        encoder.model.load_state_dict(read(str(model_file)))
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
        ends = [path for path in paths if path == store.path(_epoch_of(path))]  # the others are within an epoch
        there = ", ".join(str(number) for number in sorted(map(_epoch_of, ends)))
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


def _of_weights(what: str, words: Sequence[str | Setting], checkpoint: int | None, name: str) -> Subject:
    """Weights that belong to no run: which model they are of is said by the file, by the hub, or by the user."""
    if checkpoint is not None:
        raise InputError(f"--checkpoint: {what} is no run's folder")
    backbone = _backbone_of(what)
    base = {"name": _as_name(name), "framework": {"name": "simclr"}, "backbone": backbone}
    settings = _checked(words, (*SETTABLE, "backbone"))
    config = recipes.load(Layer(what, base), settings)
    if "name" not in backbone and not any(setting.key == "backbone.name" for setting in settings):
        raise InputError(f"{what}: which model are these weights of? Say it: backbone.name=vit_small_patch16_224")
    encoder = Encoder(config.backbone)
    fit = load_weights(encoder, what)
    return Subject(config.name, encoder.eval(), config, remarks=_remarks(fit))


def _backbone_of(what: str) -> dict[str, Any]:
    """What the weights themselves say of their model: Strata's files all of it, a hub its name, others nothing."""
    return {"name": what.partition(":")[2]} if what.startswith("timm:") else backbone_of(what)


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


def _remarks(fit: Fit) -> tuple[str, ...]:
    """What of weights somebody should know before figures are read from them."""
    return (f"weights: {fit}",) if fit.share < 1.0 or fit.adapted or fit.left_over else ()


def _as_name(text: str) -> str:
    kept = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "-" for sign in text)
    return kept.lstrip("._-")[:100] or "weights"
