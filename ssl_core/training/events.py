"""What a run says while it trains, and who listens: displays, files, trackers, checkpoints, sweeps.

Every rank says the same to its own listeners; what only one rank should do, only that rank's listeners do. Events are
plain values that pickle, so that a worker's can be heard in another process.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

Record = dict[str, float]
"""The figures of one epoch by metric name, with `epoch` itself."""


@dataclass(frozen=True)
class Started:
    """Training begins, or goes on.

    Attributes:
        history: records of the epochs that are done.
        steps: optimizer steps an epoch.
        device: what this rank trains on, by name.
        workers: ranks.
        loaders: loader processes of a rank.
        trained, encoder: parameters that are trained, and of the encoder.
    """

    history: tuple[Record, ...]
    steps: int
    device: str
    workers: int
    loaders: int
    trained: int
    encoder: int


@dataclass(frozen=True)
class Stepped:
    """An optimizer step is done.

    Attributes:
        epoch: which is under way, from 1.
        step: steps done of its `steps`.
        images_per_second: of this epoch so far, on all ranks.
        time: when, in seconds as `time.time()` counts them.
    """

    epoch: int
    step: int
    steps: int
    images_per_second: float
    time: float


@dataclass(frozen=True)
class EpochEnded:
    """An epoch is done and evaluated; epoch 0 is the untrained network.

    Attributes:
        record: as the run's history holds it. A listener may add figures; those behind it see them.
    """

    record: Record


@dataclass(frozen=True)
class CheckpointDue:
    """Between two steps: every `checkpoint.every_steps`, and before a stop.

    Attributes:
        epoch, step: epochs done, and steps of the next one.
    """

    epoch: int
    step: int


@dataclass(frozen=True)
class Warned:
    """Something is wrong, and training goes on."""

    message: str


@dataclass(frozen=True)
class Ended:
    """Training is over: at its last epoch, or because a listener wanted to stop."""

    finished: bool


Event = Started | Stepped | EpochEnded | CheckpointDue | Warned | Ended


class Listener(Protocol):
    """Who is told what happens, and may end it."""

    def on(self, event: Event) -> None:
        """Called in the thread that trains, which waits; in the order in which listeners are given."""

    def wants_stop(self) -> bool:
        """Asked before every step on every rank, and to be answered at once; what one rank wants, all do."""
        return False


class Printed(Listener):
    """One line an epoch on standard output: for notebooks."""

    def on(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            shown = ("epoch", "loss", "knn/last", "knn/best", "rankme/last", "images_per_second")
            print("  ".join(f"{key} {event.record[key]:.4g}" for key in shown if key in event.record))
        elif isinstance(event, Warned):
            print(f"warning: {event.message}")


def tell(listeners: Iterable[Listener], event: Event) -> None:
    """Let all listeners know, one after another."""
    for listener in listeners:
        listener.on(event)
