"""A run's checkpoints: written atomically, the newest few and the best kept, the newest readable one found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from ssl_core.config import RunConfig
from ssl_core.files import write_atomically
from ssl_core.loop import Pretraining
from ssl_core.neighbors.files import drop_unneeded


class CheckpointStore:
    """What a run in folder `output` can go on from: `checkpoints/epoch_0012.pt`, and the index in `neighbors/`."""

    def __init__(self, output: Path, config: RunConfig):
        self.folder, self.neighbors = output / "checkpoints", output / "neighbors"
        self.model_file = output / "model.safetensors"
        self.config, self._window = config.checkpoint, config.positives.window

    def paths(self) -> list[Path]:
        """All checkpoints, oldest first."""
        return sorted(self.folder.glob("epoch_*.pt"))

    def keep(self, run: Pretraining) -> None:
        """After an epoch: write what `run` can go on from if that is due, and after the last one its encoder."""
        epoch, epochs = run.epoch, run.config.optim.epochs
        if epoch and (epoch % self.config.every_epochs == 0 or epoch == epochs):
            run.positives.save(self.neighbors, epoch)
            self.save(run.state_dict())
        if epoch == epochs:
            save_encoder(run.method.encoder.model, run.config, self.model_file)

    def save(self, state: dict[str, Any]) -> Path:
        """Write `state`, then remove what is neither among the newest `keep` nor the best."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(state["epoch"])
        write_atomically(path, lambda file: torch.save(state, file))
        keep = {*self.paths()[-self.config.keep :], self.path(self.best_epoch(state["history"]))}
        for old in set(self.paths()) - keep:
            old.unlink()
        # A run goes on from the newest ones, not from the best.
        resumable = [int(path.stem.removeprefix("epoch_")) for path in self.paths()[-self.config.keep :]]
        drop_unneeded(self.neighbors, resumable, self._window)
        return path

    def load_latest(self, on_broken: Callable[[str], None]) -> dict[str, Any] | None:
        """The state of the newest readable checkpoint, or None; `on_broken` is told of those that are not."""
        for path in reversed(self.paths()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever a damaged file raises, the one before it may be whole
                on_broken(f"{path} cannot be read ({type(error).__name__}); using the checkpoint before it")
        return None

    def best_epoch(self, history: list[dict[str, float]]) -> int:
        """The checkpointed epoch whose `checkpoint.best` metric is highest; −1 if it was never measured."""
        name, every = self.config.best, self.config.every_epochs
        measured = [r for r in history if name in r and r["epoch"] > 0 and r["epoch"] % every == 0]
        return int(max(measured, key=lambda record: record[name])["epoch"]) if measured else -1

    def path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch:04d}.pt"


def save_encoder(model: nn.Module, config: RunConfig, path: Path) -> None:
    """The encoder in timm's names; the file's metadata says how to build it."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"backbone": json.dumps(config.backbone.model_dump(mode="json"))}
    write_atomically(path, lambda file: file.write(save(weights, metadata)))
