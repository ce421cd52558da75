"""Evaluators: what a configuration's `evaluation` list asks for, on every layer, while training and after.

A new evaluator is one file, with its section of the schema: what it measures, how often, of which images. Features are
extracted once for all of them; ranks share the images and the layers.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.data.sources.base import Images, Source
from ssl_core.errors import InputError
from ssl_core.evaluation.features import Context, Layers, chosen_labels, own_images
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.evaluation.splits import held_out
from ssl_core.schema.data import DataConfig
from ssl_core.schema.evaluation import EvaluationDataConfig, EvaluatorConfig, KnnConfig, LinearConfig
from ssl_core.schema.metric import Metric
from ssl_core.schema.run import RunConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Config = TypeVar("Config", bound=EvaluatorConfig)
Classifier = TypeVar("Classifier", bound=KnnConfig | LinearConfig)


class Evaluator(Generic[Config]):
    """Measures the layers of a network on some images, or the network as a whole.

    Args:
        config: its section.
        context: the features that it may ask for; on all ranks together, when it is made.

    Attributes:
        outcomes: by layer (from 0), how each image that was asked about fared, (N,): so two networks are compared image
            by image. Empty where that means nothing.
    """

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context
        self.outcomes: dict[int, np.ndarray] = {}

    @classmethod
    def check(cls, config: Config, images: Images) -> None:
        """Whether what it measures can be measured on these images, its own where it names some.

        Raises:
            InputError: it cannot, and why; the sentence begins with a key below its section, or with none.
        """

    def measure(self, layer: int) -> Mapping[str, float]:
        """The values of its metrics of layers, by name, for a layer (from 0) that this rank has the features of."""
        return {}

    def whole(self) -> Mapping[str, float]:
        """The values of its other metrics, by name: asked for on rank 0 alone, after the layers."""
        return {}

    def pictures(self) -> Mapping[str, "Figure"]:
        """Pictures of what it found, by name, where somebody wants them: on rank 0 alone, after the layers."""
        return {}


class Classifies(Evaluator[Classifier]):
    """How often a class is known, of images of val by those of train.

    Attributes:
        chosen_by: the key whose value is chosen where it lists several.
        chosen: the value that was taken, by layer (from 0).
    """

    chosen_by: ClassVar[str]

    def __init__(self, config: Classifier, context: Context):
        super().__init__(config, context)
        train, val = context.images.train, context.images.val
        assert val is not None and val.labels is not None and train.labels is not None, "only such are due"  # noqa: PT018
        self.bank, self.bank_labels = _labelled(*context.features("train", config.max_train, labelled=True), train)
        self.queries, self.labels = _labelled(*context.features("val", config.max_val, labelled=True), val)
        self.classes = len(train.classes)
        self.chosen: dict[int, float] = {}

    @classmethod
    def check(cls, config: Classifier, images: Images) -> None:
        labels = chosen_labels(images.train, config.max_train)
        if len(cls.options(config)) > 1 and len(np.unique(labels)) == len(labels):
            raise InputError(
                f"{cls.chosen_by}: one of several is chosen on a part of train that is held out of each class; no "
                f"class has two of the {len(labels)} images of train that are looked at"
            )

    @classmethod
    def options(cls, config: Classifier) -> list[Any]:
        """The values among which one is chosen, each once."""
        given = getattr(config, cls.chosen_by)
        return list(dict.fromkeys(given)) if isinstance(given, list) else [given]

    def classify(self, layer: int, name: str, predict: Callable[..., Tensor]) -> dict[str, float]:
        """The share of images that are classified rightly, NAME, and its mean over classes, NAME_mean_class.

        Args:
            predict: (queries, bank, bank's labels, classes, option) → classes, on the device that features come from.
        """
        queries, bank, labels = (
            x.to(self.context.device) for x in (self.queries[layer], self.bank[layer], self.bank_labels)
        )
        self.chosen[layer] = self._best(bank, labels, predict)
        right = predict(queries, bank, labels, self.classes, self.chosen[layer]).cpu() == self.labels
        self.outcomes[layer] = right.numpy()
        return {name: right.float().mean().item(), f"{name}_mean_class": mean_class(right, self.labels)}

    def _best(self, bank: Tensor, labels: Tensor, predict: Callable[..., Tensor]) -> Any:
        """The option that knows most of a part of train that it has not seen; of equal ones, the first."""
        options = self.options(self.config)
        if len(options) == 1:
            return options[0]
        fit, choose = (torch.from_numpy(rows).to(bank.device) for rows in held_out(labels.cpu().numpy()))
        data = bank[choose], bank[fit], labels[fit], self.classes
        return max(options, key=lambda option: int((predict(*data, option) == labels[choose]).sum()))


def mean_class(right: Tensor, labels: Tensor) -> float:
    """The mean over classes of the share of their images (N,) that are right."""
    counts = torch.bincount(labels)
    shares = torch.bincount(labels, weights=right.double()) / counts
    return shares[counts > 0].mean().item()


def _labelled(ids: np.ndarray, layers: Layers, source: Source) -> tuple[Layers, Tensor]:
    """Features of the images that have a label, and their labels: an image in place of a broken one may have none."""
    assert source.labels is not None
    labels = torch.from_numpy(source.labels[ids])
    there = labels >= 0
    if bool(there.all()):
        return layers, labels
    return {layer: x[there] for layer, x in layers.items()}, labels[there]


def evaluate(evaluators: list[EvaluatorConfig], context: Context) -> dict[str, float]:
    """Run `evaluators`: `name/layer_01`, …, `name/last`, `name/best` for every metric of layers, `name` for others."""
    metrics: dict[str, float] = {}
    contexts = Contexts(context)
    for config in evaluators:
        evaluator = config.load()(config, contexts.of(config))
        own = {layer: dict(evaluator.measure(layer)) for layer in own_layers(config, context)}
        values = {layer: value for part in distributed.gather_objects(own) for layer, value in part.items()}
        whole = distributed.gather_objects(dict(evaluator.whole()) if distributed.rank() == 0 else {})[0]
        metrics |= named(config, values, whole, context.depth)
    return metrics


class Contexts:
    """What evaluators look at: the run's images, or their own; those of the same images share features."""

    def __init__(self, run: Context):
        self.run, self._own = run, dict[str, Context]()

    def of(self, config: EvaluatorConfig) -> Context:
        place = _data_of(config, self.run.config)
        if place is None:
            return self.run
        if place not in self._own:
            number = self.run.config.evaluation.index(config)
            own_place = f"evaluation.{number}.data."
            self._own[place] = replace(self.run, images=own_images(place), _cache={}, place=own_place)
        return self._own[place]


def own_layers(config: EvaluatorConfig, context: Context) -> list[int]:
    """The layers (from 0) that this rank measures for an evaluator.

    Raises:
        InputError: it names one that the network does not have.
    """
    if not any(metric.per_layer for metric in config.metrics):
        return []
    chosen = layers_measured(config, context.depth)
    return [layer for layer in context.own_layers if layer + 1 in chosen]


def named(
    config: EvaluatorConfig, values: Mapping[int, Mapping[str, float]], whole: Mapping[str, float], depth: int
) -> dict[str, float]:
    """What an evaluator found, under the names that it is logged by.

    Args:
        values: of each layer measured (from 0).
        whole: of the network as a whole.

    Raises:
        TypeError: its section says that it measures something else.
    """
    layered = {metric.name: metric for metric in config.metrics if metric.per_layer}
    others = {metric.name for metric in config.metrics} - layered.keys()
    measured = {name for by_name in values.values() for name in by_name}
    missing = layered.keys() - measured if values and config.while_training else ()
    if missing or measured - layered.keys() or whole.keys() - others:
        found, said = sorted({*measured, *whole}), sorted({*layered, *others})
        raise TypeError(f"evaluator {config.kind} measures {found}, its section says {said}")
    metrics = {config.named(name): value for name, value in whole.items()}
    for metric in layered.values():
        of_layers = {layer: values[layer][metric.name] for layer in sorted(values) if metric.name in values[layer]}
        if of_layers:
            metrics |= _of_layers(config.named(metric.name), metric, of_layers, depth)
    return metrics


def _of_layers(name: str, metric: Metric, values: Mapping[int, float], depth: int) -> dict[str, float]:
    """A metric of some layers (from 0), each, of the last one if it is among them, and the best."""
    found = {f"{name}/layer_{layer + 1:02d}": value for layer, value in values.items()}
    if depth - 1 in values:
        found[f"{name}/last"] = values[depth - 1]
    if metric.higher is not None:
        found[f"{name}/best"] = (max if metric.higher else min)(values.values())
    return found


def due(config: RunConfig, images: Images, epoch: int) -> list[EvaluatorConfig]:
    """The evaluators of `config` that this epoch asks for; some need labels on both sets.

    Raises:
        InputError: images that an evaluator names cannot be used.
    """
    ends = (0, config.optim.epochs)
    return [
        evaluator
        for evaluator in config.evaluation
        if (epoch in ends or epoch % evaluator.every == 0)
        and (not evaluator.needs_labels or _images_of(evaluator, config, images).labelled)
    ]


def check(config: RunConfig, images: Images) -> None:
    """Whether a run can measure what it is to measure between its epochs.

    Raises:
        InputError: which evaluators cannot be used, and why.
    """
    for number, evaluator in enumerate(config.evaluation):
        if not evaluator.while_training:
            raise InputError(
                f"evaluation.{number}.kind: {evaluator.kind} costs too much between epochs; measure the finished run: "
                f"strata evaluate RUN --with {evaluator.kind}"
            )
        if evaluator.data is None and evaluator.needs_labels and not images.labelled:
            continue  # it is left out
        check_evaluator(evaluator, config, images)


def check_evaluator(evaluator: EvaluatorConfig, config: RunConfig, images: Images) -> None:
    """Whether an evaluator can measure the images that it is to, its own or the run's.

    Raises:
        InputError: it cannot, and why.
    """
    place = f"evaluation.{config.evaluation.index(evaluator)}"
    try:
        looked_at = _images_of(evaluator, config, images)
    except InputError as error:
        about = "" if str(error).startswith("data.") else "data: "
        raise InputError(f"{place}.{about}{error}") from error
    if evaluator.needs_labels and not looked_at.labelled:
        whose = "" if evaluator.data is None else f"{place}."
        raise InputError(f"{whose}data: {evaluator.kind} needs labels of two classes or more, in train and in val")
    try:
        evaluator.load().check(evaluator, looked_at)
    except InputError as error:
        below = "." if re.match(r"[a-z][\w.]*: ", str(error)) else ": "
        raise InputError(f"{place}{below}{error}") from error


def source_of(named: str, config: RunConfig, images: Images) -> Source:
    """The set of images that `Context.broken` calls so: `train`, or `evaluation.0.data.train`."""
    *place, split = named.split(".")
    found = _images_of(config.evaluation[int(place[1])], config, images) if place else images
    return getattr(found, split)


def _data_of(evaluator: EvaluatorConfig, config: RunConfig) -> str | None:
    """The `data` section of the images that it names, as JSON; None where they are the run's."""
    if not isinstance(evaluator.data, EvaluationDataConfig):
        return None
    bare = {"limit": None, "split": None, "label_above": None}
    given = {key: value for key, value in evaluator.data if key in DataConfig.model_fields}
    own = bare | {key: value for key, value in given.items() if key == "val" or value is not None}
    return config.data.model_copy(update=own).model_dump_json()


def _images_of(evaluator: EvaluatorConfig, config: RunConfig, images: Images) -> Images:
    place = _data_of(evaluator, config)
    return images if place is None else own_images(place)
