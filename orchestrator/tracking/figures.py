"""Which figures an outbox holds, so that MLflow and `metrics.jsonl` agree whatever becomes of a run."""

import json
from collections.abc import Mapping

from orchestrator.tracking.outbox import Outbox

TIMES = {"images_per_second", "data_wait"}  # never the same twice


class Figures:
    """A run's figures by epoch, as they are in its outbox.

    A run that goes on may repeat epochs. Mostly it gets the same figures, and nothing is to be said. On another number
    of workers, or with the weights of another trial, it gets others, and MLflow cannot take back a point: then all
    figures that count are said again behind an entry `anew`, and MLflow is given another run in place of the first.
    """

    def __init__(self, box: Outbox):
        self._box = box
        self._known: dict[int, dict[str, float]] = {}
        self._last: int | None = None  # epoch that was told of in this session
        for entry in box.entries[box.rewritten :]:
            if entry["kind"] == "metrics":
                self._known.setdefault(entry["step"], {}).update(entry["content"])

    def add(self, record: Mapping[str, float]) -> None:
        """Figures of an epoch, which come in order; `epoch` says of which."""
        epoch = int(record["epoch"])
        before = self._known.get(epoch, {})
        if any(not _same(record.get(key), value) for key, value in before.items() if key not in TIMES):
            self._begin_anew(epoch)
            before = {}
        news = {key: value for key, value in record.items() if not _same(before.get(key), value)}
        if news:
            self._box.add("metrics", news, step=epoch)
        self._known[epoch] = before | news
        self._last = epoch

    def end(self) -> None:
        """There are no more: epochs behind the last that was told of are not repeated any more."""
        if self._last is not None and any(epoch > self._last for epoch in self._known):
            self._begin_anew(self._last + 1)

    def _begin_anew(self, end: int) -> None:
        """Say again what counts, the epochs before `end`."""
        self._known = {epoch: figures for epoch, figures in sorted(self._known.items()) if epoch < end}
        self._box.add("anew", None)
        for epoch, figures in self._known.items():
            self._box.add("metrics", figures, step=epoch)


def _same(one: float | None, other: float | None) -> bool:
    return json.dumps(one) == json.dumps(other)  # NaN is the same as NaN
