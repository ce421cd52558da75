"""Evaluators: what a configuration's `evaluation` list asks for, on every layer, while training and after.

A new evaluator is one file, with its section of the schema: what it measures, how often, of which images. Features are
extracted once for all of them; ranks share the images and the layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.data.sources.base import Images, Source
from ssl_core.errors import InputError
from ssl_core.evaluation.features import Context, Layers, own_images
from ssl_core.schema.evaluation import EvaluatorConfig, KnnConfig, LinearConfig
from ssl_core.schema.run import RunConfig

Config = TypeVar("Config", bound=EvaluatorConfig)
Classifier = TypeVar("Classifier", bound=KnnConfig | LinearConfig)


class Evaluator(Generic[Config]):
    """Measures each layer of a network on some images.

    Args:
        config: its section.
        context: the features that it may ask for; on all ranks together, when it is made.
    """

    def __init__(self, config: Config, context: Context):
        self.config, self.context = config, context

    def measure(self, layer: int) -> Mapping[str, float]:
        """The values of its metrics, by name, for a layer (from 0) that this rank has the features of."""
        raise NotImplementedError


class Classifies(Evaluator[Classifier]):
    """How often a class is known, of images of val by those of train."""

    def __init__(self, config: Classifier, context: Context):
        super().__init__(config, context)
        train, val = context.images.train, context.images.val
        assert val is not None and val.labels is not None and train.labels is not None, "only such are due"  # noqa: PT018
        self.bank, self.bank_labels = _labelled(*context.features("train", config.max_train, labelled=True), train)
        self.queries, self.labels = _labelled(*context.features("val", config.max_val, labelled=True), val)
        self.classes = len(train.classes)

    def accuracy(self, layer: int, predict: Callable[..., Tensor], *options: Any) -> float:
        """Of `predict(queries, bank, bank's labels, classes, *options)`, on the device that features come from."""
        device = self.context.device
        data = (x.to(device) for x in (self.queries[layer], self.bank[layer], self.bank_labels))
        predictions = predict(*data, self.classes, *options).cpu()
        return (predictions == self.labels).float().mean().item()


def _labelled(ids: np.ndarray, layers: Layers, source: Source) -> tuple[Layers, Tensor]:
    """Features of the images that have a label, and their labels: an image in place of a broken one may have none."""
    assert source.labels is not None
    labels = torch.from_numpy(source.labels[ids])
    there = labels >= 0
    if bool(there.all()):
        return layers, labels
    return {layer: x[there] for layer, x in layers.items()}, labels[there]


def evaluate(evaluators: list[EvaluatorConfig], context: Context) -> dict[str, float]:
    """Run `evaluators`: `name/layer_01`, …, `name/last`, `name/best` for every metric."""
    metrics: dict[str, float] = {}
    contexts: dict[str | None, Context] = {None: context}
    for config in evaluators:
        place = _data_of(config, context.config)
        if place not in contexts:
            number = context.config.evaluation.index(config)
            own_place = f"evaluation.{number}.data."
            contexts[place] = replace(context, images=own_images(place), _cache={}, place=own_place)
        evaluator = config.load()(config, contexts[place])
        own = {layer: dict(evaluator.measure(layer)) for layer in context.own_layers}
        values = {layer: value for part in distributed.gather_objects(own) for layer, value in part.items()}
        if (measured := values[0].keys()) != (said := {metric.name for metric in config.metrics}):
            raise TypeError(f"evaluator {config.kind} measures {sorted(measured)}, its section says {sorted(said)}")
        for metric in config.metrics:
            name, by_layer = config.named(metric.name), [values[layer][metric.name] for layer in range(context.depth)]
            metrics |= {f"{name}/layer_{layer:02d}": value for layer, value in enumerate(by_layer, start=1)}
            metrics[f"{name}/last"] = by_layer[-1]
            if metric.higher is not None:
                metrics[f"{name}/best"] = (max if metric.higher else min)(by_layer)
    return metrics


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
    """Whether evaluators can use the images that they name.

    Raises:
        InputError: which cannot, and why.
    """
    for number, evaluator in enumerate(config.evaluation):
        if evaluator.data is None:
            continue
        try:
            labelled = _images_of(evaluator, config, images).labelled
        except InputError as error:
            about = "" if str(error).startswith("data.") else "data: "
            raise InputError(f"evaluation.{number}.{about}{error}") from error
        if evaluator.needs_labels and not labelled:
            raise InputError(f"evaluation.{number}.data: {evaluator.kind} needs labels, in train and in val")


def source_of(named: str, config: RunConfig, images: Images) -> Source:
    """The set of images that `Context.broken` calls so: `train`, or `evaluation.0.data.train`."""
    *place, split = named.split(".")
    found = _images_of(config.evaluation[int(place[1])], config, images) if place else images
    return getattr(found, split)


def _data_of(evaluator: EvaluatorConfig, config: RunConfig) -> str | None:
    """The `data` section of the images that it names, as JSON; None where they are the run's."""
    if evaluator.data is None:
        return None
    own = {"limit": None} | {key: value for key, value in evaluator.data if key == "val" or value is not None}
    return config.data.model_copy(update=own).model_dump_json()


def _images_of(evaluator: EvaluatorConfig, config: RunConfig, images: Images) -> Images:
    place = _data_of(evaluator, config)
    return images if place is None else own_images(place)
