"""The one table of metrics: display, report, sweeps, checkpoints, pictures and documents read it."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from ssl_core.errors import InputError
from ssl_core.schema.evaluation import EvaluatorConfig
from ssl_core.schema.layers import chosen_layers
from ssl_core.schema.metric import Metric

RUN = (
    Metric("epoch", "epoch", None, "{:.0f}", meaning="epochs done; 0 is the untrained network"),
    Metric("loss", "loss", False, "{:.3f}", meaning="what is minimised, the mean over the epoch's steps"),
    Metric("loss/last", "last", False, "{:.3f}", meaning="the loss of the last layer alone"),
    Metric("loss/hidden", "hidden", False, "{:.3f}", meaning="mean of the hidden layers' losses (SDSSL)"),
    Metric("loss/predictor", "predictor", False, "{:.2f}", meaning="sum of the predictors' own losses (SDSSL Eq. 6)"),
    Metric("loss/target_NN", "target", False, "{:.3f}", meaning="of a layer that is predicted (Bootleg)"),
    Metric("loss/NAME", "objective", False, "{:.3f}", meaning="of one of several objectives; before its weight"),
    Metric("loss/NAME/PART", "part", False, "{:.3f}", meaning="a part of that, as above"),
    Metric("alpha", "α", None, "{:.2f}", meaning="weight of the hidden layers' loss, as it rises"),
    Metric("lr", "lr", None, "{:.2e}", meaning="learning rate, the mean over steps"),
    Metric("weight_decay", "weight decay", None, "{:.2e}", meaning="as scheduled, the mean over steps"),
    Metric("momentum", "momentum", None, "{:.4f}", meaning="of the EMA teacher"),
    Metric("grad_norm", "gradient", None, "{:.2f}", meaning="norm of the whole gradient before clipping"),
    Metric("images_per_second", "images/s", True, "{:.0f}", meaning="training alone, over all workers"),
    Metric("data_wait", "data wait", False, "{:.1%}", meaning="share of the time that a step waited for images"),
    Metric("broken_images", "broken", False, "{:.0f}", meaning="images that could not be decoded so far"),
    Metric("positives/bootstrap_ratio", "other image", None, "{:.1%}", meaning="pairs that are of two images"),
    Metric("positives/same_class", "same class", True, "{:.1%}", True, meaning="of those pairs, of one class"),
    Metric("positives/gate_open", "gate open", None, "{:.1%}", meaning="images whose partner is drawn (AdaSim)"),
    Metric("positives/nn_top1", "first neighbour", True, "{:.1%}", True, meaning="first of a list, of the class"),
    Metric("positives/nn_top2", "second neighbour", True, "{:.1%}", True, meaning="second of a list, of the class"),
    Metric("positives/self_similarity", "similarity to itself", None, "{:.3f}", meaning="to its feature an epoch ago"),
    Metric("positives/spread", "spread", None, "{:.4f}", meaning="deviation of the similarities in a list"),
    Metric("positives/recall", "recall", True, "{:.1%}", meaning="exact neighbours that an approximate search found"),
)


def kinds() -> dict[str, type[EvaluatorConfig]]:
    """The sections of evaluators by kind."""
    known = EvaluatorConfig.known.items()
    return {kind: section for kind, section in known if issubclass(section, EvaluatorConfig)}


def table() -> dict[str, Metric]:
    """All metrics by name: those of a run, and those of every evaluator that is known.

    Raises:
        TypeError: a name means two things.
    """
    evaluators = (metric for section in kinds().values() for metric in section.metrics)
    found: dict[str, Metric] = {}
    for metric in (*RUN, *evaluators):
        if found.setdefault(metric.name, metric) != metric:
            raise TypeError(f"two metrics are called {metric.name}: {found[metric.name]} and {metric}")
    return found


def by_layer(record: Mapping[str, float]) -> dict[str, Metric]:
    """The metrics of which a record has a value for layers, by name, but for derived ones."""
    names = dict.fromkeys(layered[1] for key in record if (layered := re.fullmatch(r"(.+)/layer_\d+", key)))
    order = list(table())
    found = {name: find(f"{name}/last") for name in names}
    shown = {name: metric for name, metric in found.items() if metric is not None and not metric.derived}
    return dict(sorted(shown.items(), key=lambda item: order.index(item[1].name)))


def find(name: str) -> Metric | None:
    """What is known of a metric by the name that it is logged under; None for none that could be logged.

    `knn/last`, `cars.knn/layer_03` and `loss/target_06` are `knn`, `knn` and a loss.
    """
    all_of = table()
    if name in all_of and not all_of[name].per_layer:
        return all_of[name]
    layered = re.fullmatch(r"(?:[A-Za-z0-9_-]+\.)?(\w+)/(?:last|best|layer_\d+)", name)
    if layered and layered[1] in all_of and all_of[layered[1]].per_layer:
        return all_of[layered[1]]
    own = re.fullmatch(r"[A-Za-z0-9_-]+\.(\w+)", name)
    if own and own[1] in all_of and not all_of[own[1]].per_layer:
        return all_of[own[1]]
    row = next((row for row in RUN if re.fullmatch(_pattern(row.name), name)), None)
    return None if row is None else replace(row, name=name, title=name.removeprefix("loss/"))


def _pattern(name: str) -> str:
    """What a row whose name has a place for another stands for."""
    for place, form in (("NN", r"\d{2,}"), ("NAME", r"[A-Za-z0-9_-]+"), ("PART", r"\w+")):
        name = name.replace(place, form)
    return name


def known(name: str) -> Metric:
    """The same of a metric that a run has logged.

    Raises:
        KeyError: nothing is known of it.
    """
    metric = find(name)
    if metric is None:
        raise KeyError(name)
    return metric


def title_of(name: str) -> str:
    """What a metric of layers is called, by its name without a layer: `k-NN accuracy`, `cars: k-NN accuracy`."""
    own, dot, _ = name.partition(".")
    return (f"{own}: " if dot else "") + known(f"{name}/last").title


def is_share(name: str) -> bool:
    """Whether a metric is shown in per cent."""
    metric = find(name)
    return metric is not None and metric.is_share


def layers_of(record: Mapping[str, float], name: str) -> dict[int, float]:
    """The values of `name` by layer, from 1, first to last of those that were measured."""
    found = {
        int(key[1]): value
        for this, value in record.items()
        if (key := re.fullmatch(rf"{re.escape(name)}/layer_(\d+)", this))
    }
    return dict(sorted(found.items()))


def names_by_layer(evaluators: Sequence[EvaluatorConfig], depth: int) -> list[str]:
    """What evaluators log of a network with `depth` layers."""
    return [
        name for evaluator in evaluators for metric in evaluator.metrics for name in _names(evaluator, metric, depth)
    ]


def _names(evaluator: EvaluatorConfig, metric: Metric, depth: int) -> list[str]:
    name = evaluator.named(metric.name)
    if not metric.per_layer:
        return [name]
    layers = layers_measured(evaluator, depth)
    places = ["last"] if depth in layers else []
    places += [f"layer_{layer:02d}" for layer in layers] + ([] if metric.higher is None else ["best"])
    return [f"{name}/{place}" for place in places]


def layers_measured(evaluator: EvaluatorConfig, depth: int) -> list[int]:
    """The layers, from 1, that an evaluator measures of a network.

    Raises:
        InputError: it names one that the network does not have.
    """
    if evaluator.layers == "last":
        return [depth]
    return chosen_layers(evaluator.layers, depth, f"evaluation: layers of {evaluator.named(evaluator.kind)}")


def check_compared(key: str, name: str, logged: Collection[str], labelled: bool) -> Metric:
    """What runs can be compared by: a metric that they log, of which higher or lower is better.

    Args:
        key: that names it, for errors.
        logged: names of what they log.
        labelled: whether there are labels.

    Raises:
        InputError: it is none, with the nearest that is.
    """
    metric = find(name)
    comparable = [other for other in logged if (row := find(other)) is not None and row.higher is not None]
    if name in logged:
        if metric is not None and metric.higher is not None:
            return metric
        other = next((other for other in ("knn/last", "rankme/last") if other in logged), "loss")
        raise InputError(f"{key}: neither a high nor a low {name} is better; take another, such as {other}")
    if metric is not None and all(find(other) != metric for other in logged):
        if metric.needs_labels and not labelled:
            other = "rankme/last" if "rankme/last" in logged else "loss"
            raise InputError(
                f"{key}: {name} needs labels on data.train and data.val; without them take one that needs none, such "
                f"as {other}"
            )
        kind = next((kind for kind, section in kinds().items() if metric in section.metrics), None)
        if kind is not None:
            raise InputError(f"{key}: {name} is not logged by these runs; `evaluation` has no {{kind: {kind}}}")
    near = difflib.get_close_matches(name, comparable, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(comparable))}"
    raise InputError(f"{key}: {name} is not logged by these runs; {hint}")
