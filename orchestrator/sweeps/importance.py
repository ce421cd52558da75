"""Which of a sweep's settings matter: fANOVA (Hutter et al., 2014) by Optuna, over trials at the same epoch."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import optuna

from orchestrator.sweeps.space import Dimension, SweepConfig, label
from orchestrator.sweeps.trials import Trial, describe_exactly, distinct

FEWEST = 6  # trials from which anything is said


@dataclass(frozen=True)
class Importance:
    """Shares of the metric's variance over the trials.

    Attributes:
        shares: key → share, the largest first; each group sums to 1.
        trials, epoch: how many trials, after which epoch.
        among: the condition under which its keys exist, in words; empty for keys that always do.
    """

    shares: dict[str, float]
    trials: int
    epoch: int
    among: str = ""


def importances(config: SweepConfig, trials: Sequence[Trial]) -> list[Importance]:
    """One for the keys that every trial has, and one for each condition."""
    epoch, values = comparable(trials, config.metric[0])
    groups: dict[str, list[str]] = {}
    for key, dimension in config.space.items():
        groups.setdefault(dimension.condition, []).append(key)
    found = []
    always = groups.get("", [])
    for among, keys in groups.items():
        used = [trial for trial in trials if trial.id in values and all(key in trial.settings for key in keys)]
        asked = list(dict.fromkeys([*always, *keys]))
        shares = _fanova(config, used, asked, [values[trial.id] for trial in used])
        if shares:
            found.append(Importance(shares, len(used), epoch, among))
    return found


def comparable(trials: Sequence[Trial], metric: str) -> tuple[int, dict[str, float]]:
    """The latest epoch at which half of the trials, and `FEWEST`, were measured, and what by id: the same for all.

    Of trials with the same setting and seed one counts.
    """
    measured: dict[int, dict[str, float]] = {}
    for trial in distinct(trials):
        for record in trial.records:
            if metric in record and record["epoch"] > 0:
                measured.setdefault(int(record["epoch"]), {})[trial.id] = record[metric]
    enough = max(FEWEST, max((len(values) for values in measured.values()), default=0) / 2)
    epochs = [epoch for epoch, values in measured.items() if len(values) >= enough]
    return (max(epochs), measured[max(epochs)]) if epochs else (0, {})


def seed_share(trials: Sequence[Trial], values: dict[str, float]) -> float | None:
    """The share of the variance that seeds make by themselves: within settings, of all; None without repeats.

    Args:
        values: of one metric, by trial id.
    """
    groups: dict[str, list[float]] = {}
    for trial in trials:
        if trial.id in values:
            groups.setdefault(describe_exactly(trial.settings), []).append(values[trial.id])
    freedom = sum(len(group) - 1 for group in groups.values())
    total = np.var(list(values.values())) if values else 0.0
    if not freedom or not total:
        return None
    within = sum(len(group) * np.var(group) for group in groups.values()) / freedom
    return float(min(1.0, within / total))


def _fanova(config: SweepConfig, trials: Sequence[Trial], keys: Sequence[str], values: Sequence[float]) -> dict:
    varied = [key for key in keys if len({str(trial.settings[key]) for trial in trials}) > 1]
    if len(trials) < FEWEST or not varied or len(set(values)) < 2:
        return {}
    study = make_study(config, trials, varied, values)
    if len(varied) == 1:
        return {varied[0]: 1.0}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied))


def make_study(
    config: SweepConfig, trials: Sequence[Trial], keys: Sequence[str], values: Sequence[float]
) -> optuna.Study:
    """The trials as an Optuna study, for its analyses."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")
    distributions = {key: _distribution(config.space[key], [t.settings[key] for t in trials]) for key in keys}
    study = optuna.create_study(direction="maximize" if config.mode[0] == "max" else "minimize")
    for trial, value in zip(trials, values, strict=True):
        params = {key: _value(config.space[key], trial.settings[key]) for key in keys}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=value))
    return study


def _value(dimension: Dimension, value: object) -> object:
    return str(label(value)) if dimension.values is not None else value


def _distribution(dimension: Dimension, seen: Sequence) -> optuna.distributions.BaseDistribution:
    if dimension.values is not None:
        return optuna.distributions.CategoricalDistribution([str(label(value)) for value in dimension.values])
    if dimension.kind == "randint":
        return optuna.distributions.IntDistribution(dimension.args[0], dimension.args[1] - 1)
    low, high = (min(seen), max(seen)) if dimension.kind == "normal" else dimension.args[:2]
    return optuna.distributions.FloatDistribution(float(low), float(high), log=dimension.logarithmic)
