"""With how many workers a run starts, and when it should go on with others: a node leaves, or there is more room."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ssl_core.schema.run import RunConfig

if TYPE_CHECKING:
    from orchestrator.cluster.room import WorkerShare

POLL = 0.2  # seconds between looks at the cluster's room
GRACE = 5.0  # seconds in which the workers that have ended give back what they had


class Elastic:
    """The room of a run on its cluster, from one start of its workers to the next."""

    def __init__(self, config: RunConfig, share: "WorkerShare", warn: Callable[[str], None]):
        self.share, self.possible, self._warn = share, config.possible_workers, warn  # most first
        self.workers = self.possible[0]
        self._starts, self._waits = 0, False
        self._left: set[str] = set()

    @property
    def _asks(self) -> bool:
        """Whether the autoscaler is asked to keep room, rather than Ray Train alone for what it starts first."""
        return self._starts > 1 or len(self.possible) > 1

    def choose(self) -> int:
        """As many workers as there is room for, of those that the configuration allows; waits for the least of them."""
        from orchestrator.cluster.ray_private import leaving_nodes

        self._starts += 1
        self.workers = self._wait_for_room() if self._asks else self.possible[0]
        self._left = leaving_nodes()
        return self.workers

    def _wait_for_room(self) -> int:
        from orchestrator.cluster.room import ask_for, room_beside

        ask_for(self.share, self.possible[0])  # until it ends or is stopped
        began = time.monotonic()
        while True:
            room = room_beside(self.share)
            fitting = [workers for workers in self.possible if workers <= room]
            waited = time.monotonic() - began
            if fitting and (fitting[0] == self.possible[0] or waited > GRACE):
                self._waits = False
                return fitting[0]
            if not fitting and waited > GRACE and not self._waits:
                self._warn(f"waiting for room for {self.possible[-1]} worker(s); there is some for {room}")
                self._waits = True
            time.sleep(POLL)

    def why_move(self, epoch_ended: bool) -> str | None:
        """Why to go on with other workers, if there is a reason."""
        from orchestrator.cluster.ray_private import leaving_nodes

        if leaving_nodes() - self._left:
            return "a node is about to leave the cluster; going on without it"
        if epoch_ended and self._could_grow():
            return f"there is room for more than {self.workers} worker(s); going on with them"
        return None

    def _could_grow(self) -> bool:
        from orchestrator.cluster.room import room_beside

        more = [workers for workers in self.possible if workers > self.workers]
        return bool(more) and self.workers + room_beside(self.share) >= more[-1]

    def release(self) -> None:
        """Let the autoscaler take back what was kept."""
        from orchestrator.cluster.room import ask_for

        if self._asks:
            ask_for(self.share, 0)
