"""What a sweep's trials give: of this its answer, its tables and its pictures are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from orchestrator.sweeps.importance import Importance, importances
from orchestrator.sweeps.space import SweepConfig
from orchestrator.sweeps.trials import Score, Trial, distinct, ranking


@dataclass(frozen=True)
class Findings:
    """What the trials of a sweep give.

    Attributes:
        trials: those that began, with their figures.
        scores: their settings, the best first.
        importances: which settings matter; none with two metrics.
    """

    config: SweepConfig
    trials: Sequence[Trial]
    scores: Sequence[Score]
    importances: Sequence[Importance]

    @classmethod
    def of(cls, config: SweepConfig, trials: Sequence[Trial]) -> "Findings":
        scores = ranking(trials, config.metric[0], config.mode[0])
        return cls(config, trials, scores, importances(config, trials) if len(config.metric) == 1 else [])

    @property
    def metric(self) -> str:
        """The first, by which settings are ranked."""
        return self.config.metric[0]

    @property
    def best(self) -> Score | None:
        return self.scores[0] if self.scores else None

    @cached_property
    def keys(self) -> list[str]:
        """Those of the space that had more than one value."""
        return [key for key in self.config.space if len({str(t.settings.get(key, "—")) for t in self.trials}) > 1]

    @cached_property
    def measured(self) -> list[Trial]:
        """Trials that got as far as a first value of the metric, one for each seed of a setting."""
        return distinct([trial for trial in self.trials if trial.value(self.metric) is not None])
