"""Probes trained by gradient on frozen features of augmented images: all settings in one pass, the best one chosen.

Ranks share the images of every batch; a layer's probes are on the rank that owns it, and see all of them, so that any
number of ranks trains the same probes.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset

from ssl_core import distributed
from ssl_core.data.loading import EVAL_BATCH, EvalImages, Key, TrainImages, batch_loader
from ssl_core.data.sources.base import Images, Source
from ssl_core.data.views import normalise
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator, own_layers
from ssl_core.evaluation.features import Context, chosen_labels, once_labelled, owner_of
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.evaluation.splits import held_out
from ssl_core.networks.layers import Layers, Want
from ssl_core.schema.evaluation.probes import TrainedProbeConfig
from ssl_core.schema.views import ViewsConfig
from ssl_core.seeds import Use, derive_seed

STEPS_PER_EPOCH = 16  # at least, where a set is small
SMALLEST_BATCH = 16
MANY = 50_000  # images, from which on the papers' number of epochs is the default

CROP_AND_FLIP = ViewsConfig(jitter=(0, 0), grey=(0, 0), blur=(0, 0), solarize=(0, 0))
"""What the papers' probes are trained on: a random resized crop, flipped half of the time."""

Probing = TypeVar("Probing", bound=TrainedProbeConfig)


class TrainedProbes(Evaluator[Probing]):
    """Trains probes of every setting on a part of train, and the one that is best on the other part on all of it.

    Attributes:
        chosen: the number of the setting that was taken, by layer (from 0).
        probes: the probe of that setting, by layer of those that this rank owns.
        predictions: of the images of val, (N,), by the same layers.
        labels: theirs, (N,).
    """

    def __init__(self, config: Probing, context: Context):
        super().__init__(config, context)
        self.layers = layers_measured(config, context.depth)
        self.train: Source = context.images.train
        val = context.images.val
        assert val is not None and val.labels is not None and self.train.labels is not None, "only such are due"  # noqa: PT018
        self.classes = len(self.train.classes)
        rows = context.chosen("train", config.max_train or len(self.train), labelled=True)
        settings = {layer - 1: list(range(len(self.settings(layer - 1)))) for layer in self.layers}
        if any(len(numbers) > 1 for numbers in settings.values()):
            fit, choose = held_out(self.train.labels[rows], seed=config.seed)
            settings = self._best(self._trained(settings, rows[fit]), rows[choose])
        self.chosen = {layer: numbers[0] for layer, numbers in settings.items()}
        probes = self._trained(settings, rows)
        self.probes = {layer: of_layer[self.chosen[layer]] for layer, of_layer in probes.items()}
        queries = context.chosen("val", config.max_val or len(val), labelled=True)
        found, self.labels = self._predictions(probes, "val", queries)
        self.predictions = {layer: of[0] for layer, of in found.items()}

    @classmethod
    def check(cls, config: Probing, images: Images) -> None:
        check_classes(images, config.max_train)

    @abstractmethod
    def settings(self, layer: int) -> Sequence[object]:
        """What is tried of a layer (from 0)."""

    @abstractmethod
    def probe(self, layer: int, number: int) -> nn.Module:
        """A new probe of the setting of that number: what `of_layer` gives → logits (B, classes)."""

    @abstractmethod
    def optimizer(self, probes: Mapping[int, Mapping[int, nn.Module]]) -> Optimizer:
        """Of probes by layer and number of setting, each with its own rate."""

    @abstractmethod
    def want(self) -> Want:
        """What is asked of the encoder."""

    @abstractmethod
    def of_layer(self, found: Layers, layer: int) -> Tensor:
        """What the probes of a layer (from 0) see of it: (B, …)."""

    def figures(self, layer: int) -> dict[str, float]:
        """`accuracy` and `per_class` of val, and what is said of images one by one."""
        right = self.predictions[layer] == self.labels
        self.outcomes[layer] = right
        return {"accuracy": float(right.mean()), "per_class": per_class_mean(right, self.labels)}

    def _best(self, probes: Mapping[int, Mapping[int, nn.Module]], rows: np.ndarray) -> dict[int, list[int]]:
        """By layer, the number of the setting that knows most of these images of train; on all ranks."""
        found, labels = self._predictions(probes, "train", rows)
        right = {layer: [(of == labels).mean() for of in predictions] for layer, predictions in found.items()}
        own = {layer: [int(np.argmax(shares))] for layer, shares in right.items()}
        return {layer: numbers for part in distributed.gather_objects(own) for layer, numbers in part.items()}

    def _trained(self, settings: Mapping[int, Sequence[int]], rows: np.ndarray) -> dict[int, dict[int, nn.Module]]:
        """Probes of these settings, by layer of those that this rank owns, trained on these images of train."""
        probes = {layer: self._probes(layer, settings[layer]) for layer in own_layers(self.config, self.context)}
        few, many = self.config.usual_epochs
        epochs = self.config.epochs or (many if len(rows) >= MANY else few)
        batches = Batches(rows, batch_of(self.config.batch, len(rows)), epochs, self.config.seed)
        optimizer = self.optimizer(probes) if probes else None
        schedule = optimizer and LambdaLR(optimizer, lambda step: 0.5 + 0.5 * math.cos(math.pi * step / len(batches)))
        backbone = self.context.config.backbone
        views = TrainImages(
            self.train, CROP_AND_FLIP, backbone.image_size, backbone.channels, self.config.seed, count=1
        )
        for step, (ids, features) in enumerate(self._features("train", views, batches)):
            labels = self._labels("train", ids)
            there = labels >= 0
            if optimizer is not None and schedule is not None:
                losses = [
                    F.cross_entropy(probe(features[layer][there]), labels[there])
                    for layer, of_layer in probes.items()
                    for probe in of_layer.values()
                ]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()  # no probe's gradient is of another's loss
                optimizer.step()
                schedule.step()
            self.context.tell("training probes", step + 1, len(batches))
        return probes

    def _probes(self, layer: int, numbers: Sequence[int]) -> dict[int, nn.Module]:
        """Each from the first weights that it would have alone."""
        probes = {}
        with torch.random.fork_rng(devices=[]):
            for number in numbers:
                torch.default_generator.manual_seed(derive_seed(Use.HEADS, self.config.seed, layer))
                probes[number] = self.probe(layer, number).to(self.context.device)
        return probes

    @torch.no_grad()
    def _predictions(
        self, probes: Mapping[int, Mapping[int, nn.Module]], split: str, rows: np.ndarray
    ) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Classes (settings, N) by layer, and labels (N,), of the fixed crops of images, each that has a label once."""
        backbone = self.context.config.backbone
        source: Source = getattr(self.context.images, split)
        crops = EvalImages(source, backbone.image_size, backbone.channels)
        batches = [rows[start : start + EVAL_BATCH].tolist() for start in range(0, len(rows), EVAL_BATCH)]
        seen, said = [], {layer: [] for layer in probes}  # type: tuple[list[Tensor], dict[int, list[Tensor]]]
        for ids, features in self._features(split, crops, batches):
            seen.append(ids)
            for layer, of_layer in probes.items():
                said[layer].append(torch.stack([x(features[layer]).argmax(dim=1).cpu() for x in of_layer.values()]))
        found = torch.cat(seen).cpu().numpy()
        assert source.labels is not None
        kept = once_labelled(found, source.labels)
        return {layer: torch.cat(x, dim=1).numpy()[:, kept] for layer, x in said.items()}, source.labels[found[kept]]

    def _features(self, split: str, images: Dataset, batches: Iterable[list]) -> Iterator[tuple[Tensor, dict]]:
        """Of every batch of keys, whatever the number of ranks: indices used (B,), what the own layers' probes see."""
        context, world, rank = self.context, distributed.world_size(), distributed.rank()
        loader = batch_loader(images, Shares(batches, rank, world), context.loaders)
        for keys, batch in zip(batches, loader, strict=True):
            context.broken.update((f"{context.place}{split}", index) for index in batch.broken)
            with torch.no_grad():
                found = context.look(normalise(batch.views["global"][0].to(context.device)), self.want())
            rows = -(-len(keys) // world)

            def padded(x: Tensor, rows: int = rows) -> Tensor:
                return torch.cat([x, x[-1:].expand(rows - len(x), *x.shape[1:])]) if len(x) < rows else x

            def in_order(x: Tensor, rows: int = rows, count: int = len(keys)) -> Tensor:
                return x.unflatten(0, (world, rows)).transpose(0, 1).flatten(0, 1)[:count]

            features = {}
            for layer in (layer - 1 for layer in self.layers):
                gathered = distributed.gather_to(padded(self.of_layer(found, layer).float()), owner_of(layer))
                if gathered is not None:
                    features[layer] = in_order(gathered)
            yield in_order(distributed.all_gather(padded(batch.ids.to(context.device)))), features

    def _labels(self, split: str, ids: Tensor) -> Tensor:
        source: Source = getattr(self.context.images, split)
        assert source.labels is not None
        return torch.from_numpy(source.labels[ids.cpu().numpy()]).to(self.context.device)


def batch_of(largest: int, images: int) -> int:
    """The papers' batch, or a smaller one, so that an epoch of few images has some steps."""
    return min(largest, max(images // STEPS_PER_EPOCH, SMALLEST_BATCH), images)


class Batches:
    """The batches of all epochs, a `Key` an image: shuffled by seed and epoch, an incomplete one left out."""

    def __init__(self, rows: np.ndarray, size: int, epochs: int, seed: int):
        self.rows, self.size, self.epochs, self.seed = rows, size, epochs, seed

    def __len__(self) -> int:
        return self.epochs * (len(self.rows) // self.size)

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch in range(self.epochs):
            rows = np.random.default_rng(derive_seed(Use.HEADS_ORDER, self.seed, epoch)).permutation(self.rows)
            for number in range(len(rows) // self.size):
                batch = rows[number * self.size : (number + 1) * self.size].tolist()
                yield [Key(epoch, index, index, number) for index in batch]


class Shares:
    """What a rank takes of every batch of keys: one of them at least."""

    def __init__(self, batches: Iterable[list], rank: int, world: int):
        self.batches, self.rank, self.world = batches, rank, world

    def __iter__(self) -> Iterator[list]:
        for batch in self.batches:
            yield batch[self.rank :: self.world] or batch[:1]


def check_classes(images: Images, max_train: int | None) -> None:
    """Whether train has two classes, one of them with an image to fit to and another to choose on.

    Raises:
        InputError: it has not.
    """
    counts = np.unique(chosen_labels(images.train, max_train or len(images.train)), return_counts=True)[1]
    if len(counts) < 2:
        raise InputError(f"data.train: its labelled images are of {len(counts)} class; expected two or more")
    if counts.max() < 2:
        raise InputError("data.train: no class has two labelled images, one to fit to and one to choose settings on")


def per_class_mean(right: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the share of their images that are right."""
    return float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))
