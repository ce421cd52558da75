"""A run's checkpoints: whole or not there, with checksums; the newest few and the best are kept.

checkpoints/epoch_0012.pt              after twelve epochs
checkpoints/epoch_0012_step_000345.pt  345 steps later
checkpoints/epoch_0012.sha256          written last: checksums of it and of all files in neighbors/ that belong
                                       to it, as `sha256sum --check` reads them
"""

import contextlib
import json
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ssl_core import distributed
from ssl_core.errors import InputError
from ssl_core.evaluation.metrics import find
from ssl_core.files import sha256, write_atomically
from ssl_core.positives.neighbors.files import drop_later, drop_unneeded, needed_files
from ssl_core.schema.run import RunConfig
from ssl_core.training.history import History
from ssl_core.training.loop import Pretraining
from ssl_core.training.sums import Sums

NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?")


class CheckpointStore:
    """What a run in folder `output` can go on from."""

    def __init__(self, output: Path, config: RunConfig):
        self.output, self.folder, self.neighbors = output, output / "checkpoints", output / "neighbors"
        self.model_file = output / "model.safetensors"
        self.config, self._last = config.checkpoint, config.optim.epochs
        self._first = 1 if config.backbone.weights is None else 0  # weights that were good already may stay the best
        self._searches, self._window = config.positives.searches, config.positives.window
        self._sums: dict[Path, str] = {}  # of files that never change

    def paths(self) -> list[Path]:
        """All checkpoints, oldest first."""
        names = (path.with_suffix(".pt") for path in sorted(self.folder.glob("epoch_*.sha256")))
        return [path for path in names if NAME.fullmatch(path.stem)]

    def path(self, epoch: int, step: int = 0) -> Path:
        return self.folder / (f"epoch_{epoch:04d}" + (f"_step_{step:06d}" if step else "") + ".pt")

    def keep(self, run: Pretraining) -> None:
        """After an epoch: write what `run` can go on from if that is due, and after the last one its encoder.

        All ranks call it together, for each holds a part of the state; rank 0 writes.
        """
        state = run.state_dict() if self._is_due(run.epoch) else None
        if distributed.rank() != 0:
            return
        if run.epoch == self._last:  # before the checkpoint that says so
            save_encoder(run.method.encoder.model, run.config, self.model_file)
        run.positives.save(self.neighbors, run.epoch)
        if state is not None:
            self.save(state)

    def keep_within_epoch(self, run: Pretraining) -> None:
        """Between two steps: write what `run` can go on from. All ranks call it together; rank 0 writes."""
        state = run.state_dict()
        if distributed.rank() != 0:
            return
        if run.step:
            run.positives.save(self.neighbors, run.epoch, run.step)
        if run.step or not self.path(run.epoch).exists():
            self.save(state)

    def save(self, state: dict[str, Any]) -> Path:
        """Write `state`, then remove what is neither among the newest `keep` nor the best."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(state["epoch"], state["step"])
        write_atomically(path, lambda file: torch.save(state, file))
        sums = Sums(path)
        neighbors = {sums.name(file): self._sum_of(file) for file in self._neighbors_of(path)}
        sums.write({path.name: sha256(path)} | neighbors)
        self._tidy(self.path(self.best_epoch(state["history"])))
        return path

    def _tidy(self, best: Path) -> None:
        """Remove all but the newest checkpoints and the best, and of neighbours what only others needed."""
        paths = self.paths()
        newest = paths[-self.config.keep :]
        for old in {*paths, *_unfinished(self.folder)} - {*newest, best}:
            _remove(old)
        if best in paths and best not in newest:
            _leave_alone(best)
        needed = {file for path in newest for file in self._neighbors_of(path)}
        drop_unneeded(self.neighbors, needed)

    def restore(self, run: Pretraining, warn: Callable[[str], None]) -> None:
        """Let `run` go on from the newest checkpoint, if there is one; all ranks do it together.

        At its end, where nothing is left to train, its encoder is written again: it may be what was lost.

        Args:
            warn: is told on rank 0 of damaged checkpoints, and of what is not exact.

        Raises:
            InputError: there were checkpoints, and none can be used; or it is of another run.
        """
        latest = self._latest_for_all(warn)
        if latest is None:
            return
        remarks = run.load_state_dict(self.load(latest))
        run.positives.load(self.neighbors, run.epoch, run.step)
        if distributed.rank() != 0:
            return
        if run.epoch == self._last:
            save_encoder(run.method.encoder.model, run.config, self.model_file)
        self._tidy(self.path(self.best_epoch(run.history)))
        for remark in remarks:
            warn(remark)

    def _latest_for_all(self, warn: Callable[[str], None]) -> Path | None:
        """What rank 0 finds, or fails of, told to all ranks."""
        found: Path | InputError | None = None
        if distributed.rank() == 0:
            try:
                found = self.latest(warn)
            except InputError as error:
                found = error
        found = distributed.gather_objects(found)[0]
        if isinstance(found, InputError):
            raise found
        return found

    def latest(self, warn: Callable[[str], None]) -> Path | None:
        """The newest checkpoint that is as it was written; None for a run that has not come to its first.

        Those newer than it are put aside as `.damaged`, and `warn` is told. What they alone need is removed: it will
        be done again.

        Raises:
            InputError: there were checkpoints, and none can be used; nothing was changed.
        """
        damaged: dict[Path, str] = {}
        for path in reversed(self.paths()):
            damage = self._damage_to(path)
            if damage is not None:
                damaged[path] = damage
                continue
            for other, why in damaged.items():
                _put_aside(other)
                warn(f"{why}: {other.name} cannot be used, and was put aside; going on from {path.name}")
            if self.neighbors.exists():
                drop_later(self.neighbors, *_position(path))
            return path
        done = self._last_due()
        if damaged or done:
            why = "".join(f"\n{why}" for why in damaged.values()) or f"\nits figures are of {done} epochs"
            raise InputError(
                f"{self.folder}: no checkpoint can be used, and nothing was changed:{why}\nput back what is missing; "
                f"or start anew, in another folder: strata pretrain {self.output / 'config.yaml'}"
            )
        return None

    def _last_due(self) -> int:
        """The last epoch after which there must have been a checkpoint, by the run's figures; 0 if there was none.

        An epoch's figures are written down after its checkpoint.
        """
        done = [int(record["epoch"]) for record in History.read(self.output)]
        return max((epoch for epoch in done if self._is_due(epoch)), default=0)

    def _is_due(self, epoch: int) -> bool:
        return epoch >= self._first and (epoch % self.config.every_epochs == 0 or epoch == self._last)

    def load(self, path: Path) -> dict[str, Any]:
        """A checkpoint's state.

        Raises:
            InputError: it holds something else than tensors and plain values; nothing of it was executed.
        """
        try:
            with path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise InputError(f"{path}: refused, for it holds more than tensors and plain values: {error}") from error
        except (RuntimeError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"{path}: no checkpoint of Strata's, or a damaged one: {error}") from error

    def best_epoch(self, history: list[dict[str, float]]) -> int:
        """The checkpointed epoch whose `checkpoint.best` metric is best; −1 if it was never measured."""
        name = self.config.best
        measured = [
            record
            for record in history
            if self._is_due(int(record["epoch"])) and math.isfinite(record.get(name, math.nan))
        ]
        metric = find(name)
        pick = min if metric is not None and metric.higher is False else max
        return int(pick(measured, key=lambda record: record[name])["epoch"]) if measured else -1

    def _neighbors_of(self, path: Path) -> list[Path]:
        return needed_files(self.neighbors, *_position(path), self._window)

    def _sum_of(self, file: Path) -> str:
        if file not in self._sums:
            self._sums[file] = sha256(file)
        return self._sums[file]

    def _damage_to(self, path: Path) -> str | None:
        """Why a run cannot go on from a checkpoint."""
        sums = Sums(path)
        damage = sums.damage()
        if damage is not None:
            return damage
        known = sums.read()
        left_out = {sums.name(file) for file in self._neighbors_of(path)} - known.keys()
        if left_out or (self._searches and _position(path)[0] and len(known) == 1):
            return f"{path.name} is kept as the best, without the neighbours that a run goes on with"
        return None


def _position(path: Path) -> tuple[int, int]:
    """Epochs and steps done, by a checkpoint's name."""
    named = NAME.fullmatch(path.stem)
    assert named is not None, path
    return int(named[1]), int(named[2] or 0)


def _leave_alone(best: Path) -> None:
    """Let the sums of the best checkpoint name it alone: a run goes on from the newest ones, and not from it."""
    with contextlib.suppress(ValueError, OSError):  # damaged, it is no worse than before
        sums = Sums(best).read()
        if len(sums) > 1:
            Sums(best).write({best.name: sums[best.name]})


def _put_aside(path: Path) -> None:
    for file in (path.with_suffix(".sha256"), path):  # first the one that makes it a checkpoint
        with contextlib.suppress(FileNotFoundError):
            file.rename(file.with_name(f"{file.name}.damaged"))


def _unfinished(folder: Path) -> list[Path]:
    """What a kill has left of checkpoints: files of theirs without sums, or cut off while they were written."""
    found = []
    for path in folder.glob("*epoch_*"):
        name = path.name.removeprefix(".").removesuffix(".partial")
        if name.endswith((".pt", ".sha256")) and NAME.fullmatch(name.partition(".")[0]):
            whole = not path.name.startswith(".") and path.with_suffix(".sha256").exists()
            found += [] if whole else [path]
    return found


def _remove(path: Path) -> None:
    for file in (path.with_suffix(".sha256"), path):  # in this order: without sums there is no checkpoint
        file.unlink(missing_ok=True)


def save_encoder(model: nn.Module, config: RunConfig, path: Path) -> None:
    """The encoder in timm's names; the file's metadata says how to build it."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"backbone": json.dumps(config.backbone.model_dump(mode="json"))}
    write_atomically(path, lambda file: file.write(save(weights, metadata)))
