"""The thread that brings MLflow up to date, so that nobody waits for it."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

RETRY = 5.0  # seconds until a store that was away is asked again
STOP_PATIENCE = 3.0  # seconds that it gets when a run or sweep is stopped


class StoreAway(RuntimeError):
    """The MLflow store does not answer, or not as it should."""


class Deliverable(Protocol):
    """Something that MLflow is to get."""

    def deliver(self) -> None:
        """Bring MLflow up to date. Raises `StoreAway`."""


class Courier:
    """Delivers what trackers hold, in a thread of its own."""

    def __init__(self, warn: Callable[[str], None]):
        self._warn, self._warned = warn, False
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
            self._warn(f"MLflow misses some of {folder.name}; deliver it with: strata sync {folder}")

    def _work(self) -> None:
        while True:
            with self._news:
                while not self._waiting and not self._closing:
                    self._news.wait()
                if not self._waiting:
                    return
                trackers = list(self._waiting)
            try:
                for tracker in trackers:
                    with self._news:
                        self._waiting.pop(tracker)
                    tracker.deliver()
            except StoreAway as error:
                with self._news:
                    self._waiting[tracker] = None
                    if self._closing:
                        return
                if not self._warned:
                    self._warn(f"{error}; will deliver later")
                self._warned = True
                with self._news:
                    self._news.wait(RETRY)
