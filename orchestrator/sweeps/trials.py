"""What became of a sweep's trials: read and written as plain files, ranked by setting."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from scipy import stats

from orchestrator.sweeps.space import Settings, describe
from ssl_core.files import write_atomically
from ssl_core.training.history import History

FILE = "trial.json"
STATE_FILE = "sweep.json"  # how long the sweep has run
ENDED = ("FINISHED", "STOPPED", "COLLAPSED", "FAILED")
MLFLOW_STATUS = {"FINISHED": "FINISHED", "STOPPED": "KILLED", "COLLAPSED": "KILLED", "FAILED": "FAILED"}


@dataclass
class Trial:
    """One trial of a sweep.

    Attributes:
        number: from 1, in the order in which trials began.
        proposed: the settings as the searcher or scheduler said them, to be said again when the sweep is resumed.
        repeat: which of its setting's seeds, from 0.
        epochs: of a whole run.
        status: RUNNING, FINISHED, STOPPED (early, or by the budget), COLLAPSED, FAILED, or KILLED (goes on when the
            sweep is resumed).
        reason: why it ended, where it is not FINISHED.
        started, stopped: when it last began and ended (seconds since 1970).
        records: its figures, an epoch each.
    """

    number: int
    settings: Settings
    proposed: Settings
    repeat: int
    epochs: int
    status: str = "RUNNING"
    reason: str = ""
    started: float = 0.0
    stopped: float = 0.0
    records: list[dict[str, float]] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The name of its folder in `trials/`."""
        return f"{self.number:04d}"

    def value(self, metric: str) -> float | None:
        """The metric after the last epoch at which it was measured."""
        return next((r[metric] for r in reversed(self.records) if metric in r and r["epoch"] > 0), None)

    @property
    def epoch(self) -> int:
        return int(self.records[-1]["epoch"]) if self.records else 0

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    def write(self, folder: Path) -> None:
        """Into its folder: all but the figures, which lie in `metrics.jsonl`."""
        folder.mkdir(parents=True, exist_ok=True)
        values = {key: value for key, value in asdict(self).items() if key != "records"}
        write_atomically(folder / FILE, lambda file: file.write(json.dumps(values, indent=2).encode()))


def read_trials(sweep: Path) -> list[Trial]:
    """All trials of the sweep in a folder, by number."""
    found = [read_trial(file.parent) for file in sweep.glob(f"trials/*/{FILE}")]
    return sorted(found, key=lambda trial: trial.number)


def read_trial(folder: Path) -> Trial:
    """The trial in its folder."""
    values = json.loads((folder / FILE).read_text())
    return Trial(**values, records=History.read(folder))


def seconds_of(sweep: Path) -> float:
    """How long the sweep in a folder has run, all its sessions together."""
    file = sweep / STATE_FILE
    return json.loads(file.read_text())["seconds"] if file.exists() else 0.0


def write_seconds(sweep: Path, seconds: float) -> None:
    write_atomically(sweep / STATE_FILE, lambda file: file.write(json.dumps({"seconds": seconds}).encode()))


@dataclass(frozen=True)
class Score:
    """One setting's result over its seeds.

    Attributes:
        trials: those that count, one a seed.
        values: their metric.
        whole: whether they were trained to the end.
    """

    settings: Settings
    trials: tuple[Trial, ...]
    values: tuple[float, ...]
    whole: bool

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def half_width(self) -> float | None:
        """Of the 95 % interval of the mean over seeds (t distribution); None for one seed."""
        if len(self.values) < 2:
            return None
        return float(stats.t.ppf(0.975, len(self.values) - 1) * stats.sem(self.values))

    def mean_of(self, metric: str) -> float:
        """Of any metric, over the seeds of which it was measured; NaN where it was of none."""
        measured = [value for trial in self.trials if (value := trial.value(metric)) is not None]
        return float(np.mean(measured)) if measured else float("nan")


def distinct(trials: Sequence[Trial]) -> list[Trial]:
    """One trial for each seed of a setting, the one that was trained furthest: the same again says nothing new."""
    furthest: dict[tuple[str, int], Trial] = {}
    for trial in trials:
        known = furthest.setdefault((describe_exactly(trial.settings), trial.repeat), trial)
        if trial.epoch > known.epoch:
            furthest[describe_exactly(trial.settings), trial.repeat] = trial
    return list(furthest.values())


def ranking(trials: Sequence[Trial], metric: str, mode: str) -> list[Score]:
    """Settings, best first: those trained to the end before those that were stopped.

    Of a setting with several seeds the mean counts, each seed once.
    """
    groups: dict[str, list[Trial]] = {}
    sound = [trial for trial in trials if trial.status not in ("FAILED", "COLLAPSED")]
    for trial in distinct([trial for trial in sound if trial.value(metric) is not None]):
        groups.setdefault(describe_exactly(trial.settings), []).append(trial)
    scores = []
    for group in groups.values():
        finished = [trial for trial in group if trial.status == "FINISHED"]
        used = finished or group
        values = tuple(value for trial in used if (value := trial.value(metric)) is not None)
        scores.append(Score(used[0].settings, tuple(used), values, bool(finished)))
    sign = -1 if mode == "max" else 1
    return sorted(scores, key=lambda score: (not score.whole, sign * score.mean))


def pareto_front(scores: Sequence[Score], metrics: Sequence[str], modes: Sequence[str]) -> list[Score]:
    """Settings that no other one beats in both metrics, of those of which both were measured."""

    def point(score: Score) -> tuple[float, ...]:
        means = (score.mean_of(metric) for metric in metrics)
        return tuple(m if mode == "max" else -m for m, mode in zip(means, modes, strict=True))

    scores = [score for score in scores if np.isfinite(point(score)).all()]
    points = [point(score) for score in scores]

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(all(o >= m for o, m in zip(other, mine, strict=True)) and other != mine for other in points)

    return [score for score, mine in zip(scores, points, strict=True) if not beaten(mine)]


def difference(best: Score, other: Score) -> tuple[float, float | None]:
    """By how much `best` leads, and the half-width of the 95 % interval: paired by seed where both have the same."""
    ours, theirs = ({t.repeat: v for t, v in zip(s.trials, s.values, strict=True)} for s in (best, other))
    shared = sorted(set(ours) & set(theirs))
    if len(shared) < 2:
        return best.mean - other.mean, None
    differences = np.array([ours[seed] - theirs[seed] for seed in shared])
    return float(differences.mean()), float(stats.t.ppf(0.975, len(shared) - 1) * stats.sem(differences))


def describe_exactly(settings: Settings) -> str:
    """The same text for the same settings only."""
    return json.dumps(settings, sort_keys=True)


def title(trial: Trial) -> str:
    """How a trial is called in tables and in MLflow."""
    return f"{describe(trial.settings)}{f'  seed {trial.repeat}' if trial.repeat else ''}"
