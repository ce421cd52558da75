"""Evaluators: what a configuration's `evaluation` list asks for, on every layer, while training and after.

An evaluator is a function of a `Context` and its own configuration that returns, by metric name, one
value a layer. Features are extracted once for all of them; ranks share the images and the layers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssl_core import distributed
from ssl_core.data.loading import EvalImages, eval_loader, view_pairs
from ssl_core.data.sources.base import Images
from ssl_core.data.views import normalise
from ssl_core.evaluation import geometry
from ssl_core.evaluation.knn import knn_predict
from ssl_core.evaluation.linear import linear_predict
from ssl_core.schema.evaluation import ACCURACIES, EvaluatorConfig, GeometryConfig, KnnConfig, LinearConfig
from ssl_core.schema.run import RunConfig
from ssl_core.seeds import Use, derive_seed

LOWER_IS_BETTER = {"alignment", "uniformity"}
"""Metrics whose `…/best` is the lowest layer's."""
COLLAPSED_STD, COLLAPSED_RANK = 0.05, 1.5

Layers = dict[str, Callable[[int], float]]
"""Metric name → its value for a layer (from 0)."""


@dataclass
class Context:
    """What an evaluator may look at.

    Attributes:
        layer_features: normalised images (B, C, H, W) → features of every layer, each (B, D).
        loaders: loader processes.
        broken: images met that could not be decoded, as (set, index).
    """

    layer_features: Callable[[Tensor], list[Tensor]]
    images: Images
    config: RunConfig
    device: torch.device
    loaders: int
    broken: set[tuple[str, int]] = field(default_factory=set)
    _cache: dict[str, tuple[np.ndarray, list[Tensor]]] = field(default_factory=dict)

    def features(self, split: str, limit: int) -> tuple[np.ndarray, list[Tensor]]:
        """At most `limit` images of a split, always the same ones: their indices (N,), each layer's features (N, D)."""
        source = getattr(self.images, split)
        count = min(limit, len(source))
        if split not in self._cache or len(self._cache[split][0]) < count:
            backbone = self.config.backbone
            dataset = EvalImages(source, backbone.image_size, backbone.channels)
            used, layers = self._extract(split, dataset, _pick(len(source), count).tolist())
            self._cache[split] = used, [layer[0] for layer in layers]
        used, layers = self._cache[split]
        return used[:count], [layer[:count] for layer in layers]

    def pairs(self, split: str, limit: int) -> list[Tensor]:
        """Features of two random views of at most `limit` images of a split: each layer's (2, N, D)."""
        source = getattr(self.images, split)
        keys = [(0, index, index) for index in _pick(len(source), limit).tolist()]
        return self._extract(split, view_pairs(source, self.config), keys)[1]

    @torch.no_grad()
    def _extract(self, split: str, dataset: Dataset, keys: list) -> tuple[np.ndarray, list[Tensor]]:
        """Indices used (N,) and each layer's features (V, N, D) for the N keys, whatever the number of ranks."""
        world, rank = distributed.world_size(), distributed.rank()
        share = keys[rank::world] or keys[:1]
        rows = -(-len(keys) // world)
        ids: list[Tensor] = []
        chunks: list[list[Tensor]] = []
        for batch in eval_loader(dataset, share, self.loaders):
            self.broken.update((split, index) for index in batch.broken)
            views = normalise(batch.views["global"].to(self.device))
            layers = self.layer_features(views.flatten(0, 1))
            chunks.append([layer.float().unflatten(0, views.shape[:2]).transpose(0, 1) for layer in layers])
            ids.append(batch.ids)

        def gather(parts: Sequence[Tensor]) -> Tensor:
            x = torch.cat(list(parts))
            x = torch.cat([x, x[-1:].expand(rows - len(x), *x.shape[1:])]).to(self.device)
            x = distributed.all_gather(x).unflatten(0, (world, rows)).transpose(0, 1).flatten(0, 1)
            return x[: len(keys)].cpu()

        layers = [gather(parts).transpose(0, 1) for parts in zip(*chunks, strict=True)]
        return gather(ids).numpy(), layers


def evaluate(evaluators: Sequence[EvaluatorConfig], context: Context) -> dict[str, float]:
    """Run `evaluators`: `name/layer_01`, …, `name/last`, `name/best` for every metric."""
    metrics: dict[str, float] = {}
    for config in evaluators:
        depth, functions = _EVALUATORS[config.kind](context, config)
        for name, function in functions.items():
            own = {layer: function(layer) for layer in range(depth) if _owner(layer) == distributed.rank()}
            values = {layer: value for part in distributed.gather_objects(own) for layer, value in part.items()}
            metrics |= {f"{name}/layer_{layer + 1:02d}": values[layer] for layer in range(depth)}
            metrics[f"{name}/last"] = values[depth - 1]
            metrics[f"{name}/best"] = (min if name in LOWER_IS_BETTER else max)(values.values())
    return metrics


def due(config: RunConfig, images: Images, epoch: int) -> list[EvaluatorConfig]:
    """The evaluators of `config` that this epoch asks for; some need labels on both sets."""
    ends = (0, config.optim.epochs)
    return [
        evaluator
        for evaluator in config.evaluation
        if (epoch in ends or epoch % evaluator.every == 0) and (evaluator.kind not in ACCURACIES or images.labelled)
    ]


def metric_names(config: RunConfig, images: Images, depth: int) -> list[str]:
    """What the evaluators of `config` measure of a backbone with `depth` layers, at the latest after the last epoch."""
    where = ["last", "best", *(f"layer_{layer:02d}" for layer in range(1, depth + 1))]
    measured = [name for evaluator in due(config, images, 0) for name in _METRICS[evaluator.kind]]
    return [f"{name}/{place}" for name in dict.fromkeys(measured) for place in where]


def collapse(metrics: dict[str, float], std: float = COLLAPSED_STD, rankme: float = COLLAPSED_RANK) -> str | None:
    """A sentence that names a collapse of the last layer, where the metrics show one.

    Args:
        std, rankme: below these a representation says next to nothing.
    """
    found, rank = metrics.get("std/last", 1.0), metrics.get("rankme/last", float("inf"))
    if found < std:
        return f"the last layer has collapsed: all images get nearly the same feature (std {found:.3f} of 1)"
    if rank < rankme:
        return f"the last layer has collapsed to one direction (RankMe {rank:.2f})"
    return None


def _owner(layer: int) -> int:
    return layer % distributed.world_size()


def _pick(images: int, limit: int) -> np.ndarray:
    """`limit` of `images` indices; a smaller limit picks a prefix of a larger one's."""
    return np.random.default_rng(derive_seed(Use.PICK)).permutation(images)[:limit]


def _knn(context: Context, config: KnnConfig) -> tuple[int, Layers]:
    def predict(queries: Tensor, bank: Tensor, labels: Tensor, classes: int) -> Tensor:
        return knn_predict(queries, bank, labels, classes, config.k, config.temperature)

    return _accuracy("knn", predict, context, config)


def _linear(context: Context, config: LinearConfig) -> tuple[int, Layers]:
    def predict(queries: Tensor, bank: Tensor, labels: Tensor, classes: int) -> Tensor:
        queries, bank, labels = (x.to(context.device) for x in (queries, bank, labels))
        return linear_predict(queries, bank, labels, classes, config.l2).cpu()

    return _accuracy("linear", predict, context, config)


def _accuracy(
    name: str, predict: Callable[..., Tensor], context: Context, config: KnnConfig | LinearConfig
) -> tuple[int, Layers]:
    """How often `predict(queries, bank, bank's labels, classes)` knows a class, of images of val by those of train."""
    train, val = context.images.train, context.images.val
    bank_ids, bank = context.features("train", config.max_train)
    query_ids, queries = context.features("val", config.max_val)
    bank_labels, labels = torch.from_numpy(train.labels[bank_ids]), torch.from_numpy(val.labels[query_ids])

    def accuracy(layer: int) -> float:
        predictions = predict(queries[layer], bank[layer], bank_labels, len(train.classes))
        return (predictions == labels).float().mean().item()

    return len(bank), {name: accuracy}


def _geometry(context: Context, config: GeometryConfig) -> tuple[int, Layers]:
    split = "train" if context.images.val is None else "val"
    _, features = context.features(split, config.max_images)
    pairs = context.pairs(split, config.max_images)
    aligned = [geometry.alignment(*pair) for pair in pairs]
    return len(features), {
        "std": lambda layer: geometry.feature_std(features[layer]),
        "rankme": lambda layer: geometry.rankme(features[layer]),
        "alignment": lambda layer: aligned[layer],
        "uniformity": lambda layer: geometry.uniformity(features[layer]),
        "uniformity_ratio": lambda layer: -geometry.uniformity(features[layer]) / max(aligned[layer], 1e-12),
        "alignment_ratio": lambda layer: geometry.negative_alignment(features[layer]) / max(aligned[layer], 1e-12),
    }


_EVALUATORS = {"knn": _knn, "linear": _linear, "geometry": _geometry}
_METRICS = {
    "knn": ("knn",),
    "linear": ("linear",),
    "geometry": ("std", "rankme", "alignment", "uniformity", "uniformity_ratio", "alignment_ratio"),
}
