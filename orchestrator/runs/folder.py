"""A run: its configuration and its folder; what is written there, and what is known of the software that ran it."""

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from orchestrator.paths import RUNS
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.files import as_path, find_beside, is_local, lock, write_atomically
from ssl_core.schema.data import DataConfig, labels_file, paths_of, scheme_of
from ssl_core.schema.evaluation import EvaluationDataConfig
from ssl_core.schema.keys import differences
from ssl_core.schema.run import RunConfig

LOCK = ".lock"  # in a run's or a sweep's folder: held by the process that works there


@dataclass(frozen=True)
class Run:
    """A run's folder and what it is about."""

    config: RunConfig
    output: Path

    @property
    def config_file(self) -> Path:
        return self.output / "config.yaml"

    @property
    def plots(self) -> Path:
        return self.output / "plots"

    @property
    def model_file(self) -> Path:
        """The trained encoder, once there is one."""
        return self.output / "model.safetensors"

    def write_config(self) -> None:
        """Make the folder, with the resolved configuration in it."""
        self.output.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config_file, lambda file: file.write(recipes.dump(self.config).encode()))


def new_run(config: RunConfig, output: Path | None) -> Run:
    """A run in a folder of its own."""
    return Run(absolute_paths(config), new_folder(output, config.name))


def new_folder(output: Path | None, name: str) -> Path:
    """A folder that is not there yet, or is empty: `output`, or strata-runs/NAME-TIME.

    Raises:
        InputError: it is in use, or cannot be written to.
    """
    folder = (output or RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}").absolute()
    with usable(folder):
        used = _is_used(folder)
        check_writable(folder)
    if used:
        raise InputError(f"--output: {folder} is not empty; choose another, or go on with --resume {folder}")
    return folder


@contextmanager
def usable(folder: Path) -> Iterator[None]:
    """Whatever keeps the block from looking at a folder that was given for output, or from writing to it, is said so.

    Raises:
        InputError: it cannot be used.
    """
    try:
        yield
    except Exception as error:  # each kind of store has its own
        raise InputError(f"--output: {folder} cannot be used: {type(error).__name__}: {error}") from error


@contextmanager
def claimed(folder: Path, new: bool) -> Iterator[None]:
    """Keep other processes out of a run's or a sweep's folder while the block runs.

    The lock goes with this process, however it ends. In an object store there is none.

    Args:
        new: nothing may be in the folder yet.

    Raises:
        InputError: another process works there, or was faster.
    """
    if not is_local(folder):
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output: {folder} cannot be made: {error.strerror}") from error
    try:
        with _locked(folder):
            if new and _is_used(folder):
                raise InputError(f"--output: {folder} is not empty any more; choose another")
            yield
    finally:
        if made and not _is_used(folder):  # work did not begin
            (folder / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                for path in made:
                    path.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / LOCK).open("a+") as file:
        try:
            lock(file.fileno(), wait=False)
        except BlockingIOError:
            file.seek(0)
            raise InputError(f"{folder} is in use by {file.read().strip() or 'another process'}") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
        file.flush()
        yield


def _is_used(folder: Path) -> bool:
    return folder.exists() and any(path.name != LOCK for path in folder.iterdir())


def check_writable(folder: Path) -> None:
    """See that files can be written to a folder, or one that can be made; in an object store this is tried.

    Raises:
        PermissionError, or what else the store answers.
    """
    if is_local(folder):
        existing = next(place for place in (folder, *folder.parents) if place.exists())
        if not os.access(existing, os.W_OK) or not existing.is_dir():
            raise PermissionError(f"{existing} is no folder that can be written to")
    else:
        marker = folder / ".strata"
        marker.touch()
        marker.unlink()


def resumed_run(output: Path, overrides: list[str]) -> Run:
    """The run whose folder is `output`, to go on from its newest checkpoint.

    Raises:
        InputError: there is none, or `overrides` would make another run of it.
    """
    before, run = run_at(output, "--resume"), run_at(output, "--resume", overrides)
    changed = differences(before.config, run.config)
    wrong = {key: values for key, (*values, fact) in changed.items() if not fact.resumes}
    if wrong:
        told = "\n".join(f"{key}: {was} → {now}" for key, (was, now) in wrong.items())
        raise InputError(
            f"--resume: from here on this would be another run, which nothing could repeat:\n{told}\n"
            f"leave that as it was, or start a new run: strata pretrain {run.config_file} {' '.join(overrides)}\n"
            "scaling, data.workers, evaluation, checkpoint and tracking may change"
        )
    return run


def run_at(output: Path, given_as: str, overrides: Sequence[str] = ()) -> Run:
    """The run whose folder is `output`; `given_as` names the argument in errors."""
    file = output.absolute() / "config.yaml"
    if not file.is_file():
        raise InputError(f"{given_as}: {output} is no run's folder (it has no config.yaml)")
    return Run(absolute_paths(recipes.load(file, overrides)), output.absolute())


def absolute_paths(config: RunConfig) -> RunConfig:
    """Workers and later readers of `config.yaml` may run elsewhere: paths become absolute."""

    def absolute(path: str) -> str:
        return str(as_path(path).absolute()) if scheme_of(path) is None else path

    def each(paths: str | list[str] | None) -> str | list[str] | None:
        if paths is None:
            return None
        return absolute(paths) if isinstance(paths, str) else [absolute(path) for path in paths]

    def labels(data: DataConfig | EvaluationDataConfig) -> dict[str, str]:
        """A file of labels in the images' folder moves with it."""
        folders = map(as_path, paths_of(data.train, data.val))
        file = labels_file(data.labels)
        return {} if file is None or find_beside(file, folders) != as_path(file) else {"labels": absolute(file)}

    places = {"train": each(config.data.train), "val": each(config.data.val)}
    evaluation = []
    for evaluator in config.evaluation:
        if evaluator.data is not None:
            own = labels(evaluator.data) if isinstance(evaluator.data, EvaluationDataConfig) else {}
            evaluator = evaluator.model_copy(update={"data": evaluator.data.moved(absolute).model_copy(update=own)})
        evaluation.append(evaluator)
    data = config.data.model_copy(update=places | labels(config.data))
    weights = None if config.backbone.weights is None else absolute(config.backbone.weights)
    backbone = config.backbone.model_copy(update={"weights": weights})
    return config.model_copy(update={"data": data, "backbone": backbone, "evaluation": evaluation})
