"""The thread that brings MLflow up to date, so that nobody waits for it."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from orchestrator.tracking.faults import StoreAway, Undelivered, words_of

RETRY = 5.0  # seconds until a store that was away is asked again
STOP_PATIENCE = 3.0  # seconds that it gets when a run or sweep is stopped


class Deliverable(Protocol):
    """Something that MLflow is to get."""

    def deliver(self, tell: Callable[[str], None]) -> None:
        """Bring MLflow up to date; `tell` hears of what it refuses. Raises `Undelivered`."""


class Courier:
    """Delivers what trackers hold, in a thread of its own.

    Args:
        tell: hears what goes wrong, each kind of it once.
    """

    def __init__(self, tell: Callable[[str], None]):
        self.tell = tell
        self._told: set[type[Exception]] = set()
        self._waiting: dict[Deliverable, None] = {}
        self._news = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def wake(self, tracker: Deliverable) -> None:
        with self._news:
            self._waiting[tracker] = None
            self._news.notify()

    def close(self, folder: Path, stopped: bool = False) -> None:
        """Deliver the rest, as long as the store answers; of what was stopped, what it takes in a moment.

        Args:
            folder: of the run or sweep, from which `strata sync` can deliver what MLflow then misses.
        """
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(STOP_PATIENCE if stopped else None)
        if self._waiting or self._thread.is_alive():
            self.tell(f"MLflow misses some of {folder.name}; deliver it with: strata sync {folder}")

    def _work(self) -> None:
        while True:
            with self._news:
                while not self._waiting and not self._closing:
                    self._news.wait()
                if not self._waiting:
                    return
                trackers = list(self._waiting)
            if self._deliver(trackers):
                continue
            with self._news:
                if self._closing:
                    return
                self._news.wait(RETRY)

    def _deliver(self, trackers: list[Deliverable]) -> bool:
        """Whether MLflow has got all that these hold; what it has not got waits on."""
        whole = True
        for tracker in trackers:
            with self._news:
                self._waiting.pop(tracker)
            try:
                tracker.deliver(self.tell)
            except Exception as error:  # whatever it is: the run goes on, and what it says is in its folder
                whole = False
                with self._news:
                    self._waiting[tracker] = None
                self._say(error)
                if isinstance(error, StoreAway):
                    break
        return whole

    def _say(self, error: Exception) -> None:
        if type(error) in self._told:
            return
        self._told.add(type(error))
        said = str(error) if isinstance(error, Undelivered) else f"MLflow: {type(error).__name__}: {words_of(error)}"
        self.tell(f"{said}; will deliver later")
