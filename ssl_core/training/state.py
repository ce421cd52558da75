"""What a run is resumed from: all that it knows between two steps, as tensors and plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.errors import InputError
from ssl_core.schema.keys import differences
from ssl_core.schema.run import RunConfig
from ssl_core.training.events import Record
from ssl_core.training.health import Broken

if TYPE_CHECKING:
    from ssl_core.training.loop import Pretraining

LAYOUT = 3  # of a state: what it holds, and by which names


@dataclass
class Running:
    """An epoch under way, on this rank.

    Attributes:
        steps: done.
        totals: sums of the steps' figures.
        seconds, waited: spent on them, and on waiting for images.
    """

    steps: int = 0
    totals: dict[str, Tensor | float] = field(default_factory=dict)
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, figures: Mapping[str, Tensor | float]) -> None:
        self.steps += 1
        for name, value in figures.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def record(self, epoch: int, batch_size: int, seconds: float) -> Record:
        """The figures of the whole epoch, which took so long: means over its steps and all ranks."""
        device = next((x.device for x in self.totals.values() if isinstance(x, Tensor)), None)
        totals = torch.stack([torch.as_tensor(total, device=device) for total in self.totals.values()])
        means = distributed.mean_over_ranks(totals / self.steps).tolist()
        record: Record = {"epoch": float(epoch), **dict(zip(self.totals, means, strict=True))}
        record["images_per_second"] = self.steps * batch_size / seconds
        record["data_wait"] = self.waited / seconds
        return record


def capture(run: "Pretraining") -> dict[str, Any]:
    """All that a run needs to go on beside `positives.save`; the same on every rank, and all ask together.

    Generators are derived from seed, epoch, step and image.
    """
    return {
        "layout": LAYOUT,
        "config": run.config.model_dump(mode="json"),
        "images": len(run.images.train),
        "epoch": run.epoch,
        "step": run.step,
        "running": distributed.gather_objects(_pack(run.running, run.broken.met)) if run.step else [],
        "workers": distributed.world_size(),
        "history": run.history,
        "broken": [list(item) for item in sorted(run.broken.known)],
        **run.parallel.state(run.train_step.optimizer),
    }


def restore(run: "Pretraining", state: dict[str, Any]) -> list[str]:
    """Let a run go on from what `capture` gave; what will not be as in one that was never interrupted.

    Raises:
        InputError: it is of a former layout, or of another run.
    """
    if state.get("layout") != LAYOUT:
        raise InputError(
            "this checkpoint was written by a former version of Strata, and holds other things by other names; go on "
            "with that version, or start anew"
        )
    _check_same(run.config, state["config"])
    if state["images"] != len(run.images.train):
        raise InputError(
            f"data.train: {len(run.images.train)} images, and {state['images']} when this checkpoint was written; "
            "images may move, but must be the same"
        )
    run.epoch = state["epoch"]
    run.history = [dict(record) for record in state["history"]]
    run.broken.known = {(split, index) for split, index in state["broken"]}
    try:
        run.parallel.load(run.train_step.optimizer, state)
    except (RuntimeError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()[0]
        raise InputError(
            f"this checkpoint's weights do not fit, though its settings do (another version of timm?): {why}"
        ) from error
    workers, before = distributed.world_size(), state["workers"]
    if state["running"]:
        run.running, run.broken.met = _unpack(state["running"], run.device)
    if workers == before:
        return []
    drops_paths = any(getattr(module, "drop_prob", 0) for module in run.method.modules())
    paths = ", and other paths are dropped at random" if drops_paths else ""
    return [
        f"{before} worker(s) before, {workers} now, with the same batch of {run.config.optim.batch_size} images: "
        f"sums are added up in another order, so weights agree with an uninterrupted run's to rounding only{paths}"
    ]


def _check_same(config: RunConfig, saved: dict[str, Any]) -> None:
    """Whether a state is of a run with these settings, but for those that may change.

    Raises:
        InputError: it is not, and which differ.
    """
    changed = differences(RunConfig.model_validate(saved), config)
    wrong = {key: (was, now) for key, (was, now, fact) in changed.items() if not (fact.resumes or fact.in_mid_run)}
    if wrong:
        told = "\n".join(f"{key}: {was} there, {now} here" for key, (was, now) in wrong.items())
        raise InputError(f"this checkpoint is of a run with other settings:\n{told}")


def _pack(running: Running, broken: set[Broken]) -> dict[str, Any]:
    """One rank's part of a state within an epoch, as plain values; `broken` it has met since the epoch began."""
    totals = {name: x.cpu() if isinstance(x, Tensor) else x for name, x in running.totals.items()}
    return {"figures": vars(running) | {"totals": totals}, "broken": [list(item) for item in broken]}


def _unpack(parts: Sequence[dict[str, Any]], device: torch.device) -> tuple[Running, set[Broken]]:
    """What stands for this rank's part: its own, or where there were other ranks before, the mean of all."""
    rank = distributed.rank()
    if len(parts) == distributed.world_size():
        running, owners = Running(**parts[rank]["figures"]), parts[rank : rank + 1]
    else:
        figures = [part["figures"] for part in parts]
        running, owners = Running(**figures[0]), parts
        running.totals = {name: sum(one["totals"][name] for one in figures) / len(parts) for name in running.totals}
    running.totals = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in running.totals.items()}
    return running, {(split, index) for part in owners for split, index in part["broken"]}
