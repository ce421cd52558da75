"""A run's checkpoints: whole or not there, with checksums; the newest few and the best are kept.

checkpoints/epoch_0012.pt              after twelve epochs
checkpoints/epoch_0012_step_000345.pt  345 steps later
checkpoints/epoch_0012.sha256          written last: checksums of it and of all files in neighbors/ that belong
                                       to it, as `sha256sum --check` reads them
"""

import json
import math
import os
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
from ssl_core.files import remove, sha256, write_atomically
from ssl_core.positives.neighbors.files import drop_later, needed_files
from ssl_core.schema.run import RunConfig
from ssl_core.training.loop import Pretraining


class CheckpointStore:
    """What a run in folder `output` can go on from."""

    def __init__(self, output: Path, config: RunConfig):
        self.folder, self.neighbors = output / "checkpoints", output / "neighbors"
        self.model_file = output / "model.safetensors"
        self.config, self._window, self._last = config.checkpoint, config.positives.window, config.optim.epochs
        self._sums: dict[Path, str] = {}  # of files that never change

    def paths(self) -> list[Path]:
        """All checkpoints, oldest first."""
        return [path.with_suffix(".pt") for path in sorted(self.folder.glob("epoch_*.sha256"))]

    def path(self, epoch: int, step: int = 0) -> Path:
        return self.folder / (f"epoch_{epoch:04d}" + (f"_step_{step:06d}" if step else "") + ".pt")

    def keep(self, run: Pretraining) -> None:
        """After an epoch: write what `run` can go on from if that is due, and after the last one its encoder.

        All ranks call it together, for each holds a part of the state; rank 0 writes.
        """
        epoch, last = run.epoch, run.config.optim.epochs
        due = epoch > 0 and (epoch % self.config.every_epochs == 0 or epoch == last)
        state = run.state_dict() if due else None
        if distributed.rank() != 0:
            return
        run.positives.save(self.neighbors, epoch)
        if state is not None:
            self.save(state)
        if epoch == last:
            save_encoder(run.method.encoder.model, run.config, self.model_file)

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
        sums = {path: sha256(path)} | {file: self._sum_of(file) for file in self._neighbors_of(path)}
        lines = "".join(f"{digest}  {os.path.relpath(str(file), str(self.folder))}\n" for file, digest in sums.items())
        write_atomically(path.with_suffix(".sha256"), lambda file: file.write(lines.encode()))
        newest = self.paths()[-self.config.keep :]
        for old in set(self.paths()) - {*newest, self.path(self.best_epoch(state["history"]))}:
            _remove(old)
        # A run goes on from the newest ones, not from the best.
        needed = {file for path in newest for file in self._neighbors_of(path)}
        for file in [file for file in self.neighbors.rglob("*.*") if file.is_file() and file not in needed]:
            remove(file)
        return path

    def restore(self, run: Pretraining, warn: Callable[[str], None]) -> None:
        """Let `run` go on from the newest checkpoint, if there is one; all ranks do it together.

        Args:
            warn: is told on rank 0 of damaged checkpoints, and of what is not exact.
        """
        latest = self.latest(warn) if distributed.rank() == 0 else None
        latest = distributed.gather_objects(latest)[0]
        if latest is None:
            return
        remarks = run.load_state_dict(self.load(latest))
        run.positives.load(self.neighbors, run.epoch, run.step)
        for remark in remarks if distributed.rank() == 0 else ():
            warn(remark)

    def latest(self, on_broken: Callable[[str], None]) -> Path | None:
        """The newest checkpoint that is as it was written; `on_broken` is told of those that are not.

        What is of a later time is removed: it will be done again.
        """
        for path in reversed(self.paths()):
            damage = self._damage_to(path)
            if damage is None:
                epoch, step = _position(path)
                if self.neighbors.exists():
                    drop_later(self.neighbors, epoch, step)
                return path
            on_broken(f"{damage}: {path.name} cannot be used; going back to the checkpoint before it")
            _remove(path)
        return None

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

    def best_epoch(self, history: list[dict[str, float]]) -> int:
        """The checkpointed epoch whose `checkpoint.best` metric is best; −1 if it was never measured."""
        name, every = self.config.best, self.config.every_epochs
        measured = [
            record
            for record in history
            if math.isfinite(record.get(name, math.nan))
            and record["epoch"] > 0
            and (record["epoch"] % every == 0 or record["epoch"] == self._last)
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
        """What is wrong with a checkpoint's files."""
        for line in path.with_suffix(".sha256").read_text().splitlines():
            digest, _, name = line.partition("  ")
            file = (self.folder / name).resolve()
            if not file.exists():
                return f"{file} is missing"
            if sha256(file) != digest:
                return f"{file} is damaged (its checksum differs)"
        return None


def _position(path: Path) -> tuple[int, int]:
    """Epochs and steps done, by a checkpoint's name."""
    epoch, step = re.fullmatch(r"epoch_(\d+)(?:_step_(\d+))?", path.stem).groups()
    return int(epoch), int(step or 0)


def _remove(path: Path) -> None:
    path.with_suffix(".sha256").unlink(missing_ok=True)  # first: without it there is no checkpoint
    path.unlink(missing_ok=True)


def save_encoder(model: nn.Module, config: RunConfig, path: Path) -> None:
    """The encoder in timm's names; the file's metadata says how to build it."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"backbone": json.dumps(config.backbone.model_dump(mode="json"))}
    write_atomically(path, lambda file: file.write(save(weights, metadata)))
