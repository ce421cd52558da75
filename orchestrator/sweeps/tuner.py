"""Ray Tune's searcher, scheduler and search space for a sweep."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import schedulers
from ray.tune.search import Repeater

from orchestrator.cluster.connect import ray_storage
from orchestrator.cluster.ray_private import synchronous_pbt
from orchestrator.cluster.room import WorkerShare, nodes
from orchestrator.sweeps.plan import Plan, changeable
from orchestrator.sweeps.space import Dimension, Settings, label
from orchestrator.sweeps.trials import Trial
from ssl_core.errors import InputError

KEPT_CHECKPOINTS = 4  # of a trial, for others to take over
SETTINGS = "trial/settings"  # where a trial's settings are in what Tune draws, as searchers name it


def make_tuner(
    plan: Plan,
    trainable: type[tune.Trainable],
    share: WorkerShare,
    at_once: int,
    folder: Path,
    callback: tune.Callback,
    stopper: tune.Stopper,
    known: Sequence[Trial] = (),
) -> tune.Tuner:
    """What runs `trainable` for every setting, `at_once` of them at a time.

    Args:
        folder: for Tune's own files, which nobody reads.
        known: trials of earlier sessions, in order: the same are proposed first, so that searcher and scheduler
            hear from them again what they knew.
    """
    c = plan.sweep.config
    random.seed(c.seed)  # from which Ray's population-based training draws
    workers = plan.largest.scaling.workers
    if workers == 1:
        resources: dict[str, float] = {"CPU": share.cpus, "GPU": share.gpus}
    else:
        # A trial's own process only waits; its workers are Ray Train's to place. So many at once is said by memory.
        memory = min(node.get("memory", 0) for node in nodes())
        resources = {"memory": 0.9 * memory / at_once}
    pauses = c.scheduler.name in ("pbt", "hyperband")  # paused trials would count as running
    single = len(c.metric) == 1
    return tune.Tuner(
        tune.with_resources(trainable, {key: value for key, value in resources.items() if value}),
        param_space=_param_space(plan, known),
        tune_config=tune.TuneConfig(
            metric=c.metric[0] if single else None,
            mode=c.mode[0] if single else None,
            search_alg=_searcher(plan, known),
            scheduler=_scheduler(plan),
            num_samples=plan.runs if plan.planned is None else 1,
            max_concurrent_trials=None if pauses else at_once,
            reuse_actors=True,  # a process that has imported torch serves the next trial
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            **ray_storage(folder.parent),
            stop=stopper,
            callbacks=[callback],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=KEPT_CHECKPOINTS),
            failure_config=tune.FailureConfig(max_failures=plan.config.scaling.max_failures),
            verbose=0,
        ),
    )


def _param_space(plan: Plan, known: Sequence[Trial]) -> dict[str, Any]:
    """What Tune draws trials from; `Job.run_config` reads what it drew."""
    c = plan.sweep.config
    if plan.planned is not None:
        points = [
            {"settings": {key: label(value) for key, value in settings.items()}, "repeat": repeat}
            for repeat in range(c.repeats)
            for settings in plan.planned
        ]
        # Trials begin in this order. Their settings may have changed since (pbt).
        points[: len(known)] = [{"settings": trial.proposed, "repeat": trial.repeat} for trial in known]
        return {"trial": tune.grid_search(points[: plan.runs])}
    if c.searcher.name == "optuna":
        return {}  # `_Ask` says what there is, with its conditions
    return {"trial": {"settings": {key: _domain(dimension) for key, dimension in c.space.items()}}}


def _domain(dimension: Dimension) -> Any:
    if dimension.values is not None:
        return tune.choice([label(value) for value in dimension.values])
    return getattr(tune, "randn" if dimension.kind == "normal" else dimension.kind)(*dimension.args)


def _searcher(plan: Plan, known: Sequence[Trial]) -> Any:
    """Ray Tune's searcher; None where all settings are known."""
    c = plan.sweep.config
    if not c.searcher.learns:
        return None
    points = [_point(c.searcher.name, c.space, trial.proposed) for trial in known if trial.repeat == 0]
    seed = c.seed + len(points)  # a sampler that starts anew must not draw again what it drew then
    metric: Any
    mode: Any
    metric, mode = (c.metric[0], c.mode[0]) if len(c.metric) == 1 else (c.metric, c.mode)
    if c.searcher.name == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        samplers = {"tpe": "TPESampler", "cmaes": "CmaEsSampler", "nsgaii": "NSGAIISampler"}
        sampler = getattr(optuna.samplers, samplers[c.searcher.sampler])(seed=seed)
        found: Any = OptunaSearch(
            space=_Ask(c.space), metric=metric, mode=mode, sampler=sampler, points_to_evaluate=points
        )
    else:
        seeded = {"random_state_seed" if c.searcher.name == "hyperopt" else "seed": seed}
        found = _import_searcher(c.searcher.name)(metric=metric, mode=mode, points_to_evaluate=points or None, **seeded)
    return Repeater(found, repeat=c.repeats) if c.repeats > 1 else found


def _point(searcher: str, space: dict[str, Dimension], proposed: Settings) -> dict[str, Any]:
    """Settings as a searcher takes them for those to begin with."""
    point = {}
    for key, value in proposed.items():
        values = space[key].values
        if searcher == "hyperopt" and values is not None:  # it numbers them
            value = [label(other) for other in values].index(value)
        point[f"{SETTINGS}/{key}"] = value
    return point


def _import_searcher(name: str) -> Any:
    try:
        if name == "hyperopt":
            import hyperopt  # noqa: F401
            from ray.tune.search.hyperopt import HyperOptSearch

            return HyperOptSearch
        import ConfigSpace  # noqa: F401
        import hpbandster  # noqa: F401
        from ray.tune.search.bohb import TuneBOHB

        return TuneBOHB
    except ImportError as error:
        raise InputError(
            f"searcher: {name} needs more packages: pip install 'strata-ssl[searchers]' ({error})"
        ) from error


@dataclass(frozen=True)
class _Ask:
    """Asks an Optuna trial for settings, those whose condition holds only (define by run)."""

    space: dict[str, Dimension]

    def __call__(self, trial: Any) -> None:
        found: dict[str, Any] = {}
        for key, dimension in self.space.items():
            if not all(found.get(needed) in map(label, allowed) for needed, allowed in dimension.when.items()):
                continue
            name = f"{SETTINGS}/{key}"
            if dimension.values is not None:
                found[key] = trial.suggest_categorical(name, [label(value) for value in dimension.values])
            elif dimension.kind == "randint":
                found[key] = trial.suggest_int(name, dimension.args[0], dimension.args[1] - 1)
            else:
                low, high, *step = dimension.args
                found[key] = trial.suggest_float(
                    name, low, high, log=dimension.logarithmic, step=step[0] if step else None
                )


def _scheduler(plan: Plan) -> Any:
    c = plan.sweep.config.scheduler
    epochs = max(config.optim.epochs for _, config in plan.examples)
    halving: dict[str, Any] = {"time_attr": "epoch", "max_t": epochs, "reduction_factor": c.factor}
    if c.name == "asha":
        return schedulers.AsyncHyperBandScheduler(grace_period=c.grace, **halving)
    if c.name == "median":
        return schedulers.MedianStoppingRule(time_attr="epoch", grace_period=c.grace)
    if c.name == "hyperband":
        return schedulers.HyperBandScheduler(**halving)
    if c.name == "bohb":
        return schedulers.HyperBandForBOHB(**halving)
    if c.name == "pbt":
        space = plan.sweep.config.space
        # A list moves to a neighbouring value, a range by a fifth up or down, or anew.
        mutations = {
            key: [label(value) for value in values] if (values := space[key].values) else _domain(space[key])
            for key in changeable(plan.sweep)
        }
        return synchronous_pbt(
            time_attr="epoch",
            perturbation_interval=c.every,
            quantile_fraction=c.quantile,
            hyperparam_mutations={"trial": {"settings": mutations}},
        )
    return None
