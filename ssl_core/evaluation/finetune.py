"""Fine-tuning end to end by the recipe of MAE (A.1) and BEiT, of timm's parts.

Nothing is chosen: what is measured is the network after the last epoch. A copy of the encoder is trained. Ranks share
each batch, and average gradients.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import Mixup
from timm.data.auto_augment import rand_augment_transform
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ssl_core import distributed
from ssl_core.data.loading import EVAL_BATCH, EvalImages, Item, Key, batch_loader, read_or_replace
from ssl_core.data.sources.base import Images, Source
from ssl_core.data.views import IMAGENET_MEAN, normalise, to_channels, to_tensor
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context, chosen_labels
from ssl_core.evaluation.frozen import MANY, Batches, Shares, batch_of, check_classes, per_class_mean
from ssl_core.evaluation.lowshot import interval
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.evaluation.splits import per_class, share_per_class
from ssl_core.networks.cut import cut
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.evaluation import FinetuneConfig
from ssl_core.seeds import Use, derive_seed

EPOCHS, EPOCHS_OF_FEW = 100, 30
RATES_ARE_FOR = 256  # images a batch
BETAS = (0.9, 0.999)
DEVIATION = 0.01  # of the classifier's first weights


class Finetune(Evaluator[FinetuneConfig]):
    def __init__(self, config: FinetuneConfig, context: Context):
        super().__init__(config, context)
        train, val = context.images.train, context.images.val
        assert val is not None and val.labels is not None and train.labels is not None, "only such are due"  # noqa: PT018
        self.queries = context.chosen("val", config.max_val or len(val), labelled=True)
        self.right: dict[int, list[np.ndarray]] = {}
        self.labels = np.empty(0, np.int64)
        for layer in layers_measured(config, context.depth):
            self.right[layer - 1] = [self._run(layer, run) for run in range(config.runs)]

    @classmethod
    def check(cls, config: FinetuneConfig, images: Images) -> None:
        check_classes(images, config.max_train)
        labels = chosen_labels(images.train, config.max_train or len(images.train))
        if config.label_share is not None and not share_per_class(labels, config.label_share):
            raise InputError(
                f"label_share: {config.label_share:g} of {len(labels)} labels of {len(np.unique(labels))} classes is "
                "not one of each; take a larger share"
            )

    def measure(self, layer: int) -> dict[str, float]:
        runs = self.right[layer]
        accuracies = np.array([right.mean() for right in runs])
        self.outcomes[layer] = np.mean(runs, axis=0)
        found = {"finetune": float(accuracies.mean())}
        found["finetune_per_class"] = float(np.mean([per_class_mean(right, self.labels) for right in runs]))
        if len(runs) > 1:
            found["finetune_interval"] = interval(accuracies)
        return found

    def rows(self, run: int) -> np.ndarray:
        """The images of train that a run is trained on."""
        source = self.context.images.train
        assert source.labels is not None
        rows = self.context.chosen("train", self.config.max_train or len(source), labelled=True)
        if self.config.label_share is None:
            return rows
        count = share_per_class(source.labels[rows], self.config.label_share)
        return rows[per_class(source.labels[rows], count, self.config.seed * self.config.runs + run + 1)]

    def _run(self, layer: int, run: int) -> np.ndarray:
        """Which images of val are right, (N,), after a training of the encoder cut after a layer (from 1)."""
        seed = derive_seed(Use.FINETUNE, self.config.seed, run)
        with _seeded(derive_seed(Use.FINETUNE, self.config.seed, run, layer), self.context.device):
            model = Classifier(self.copy(layer), len(self.context.images.train.classes)).to(self.context.device)
        # Every rank mixes and drops otherwise; what it begins with is the same.
        with _seeded(
            derive_seed(Use.FINETUNE, self.config.seed, run, layer, distributed.rank() + 1), self.context.device
        ):
            self._train(model, self.rows(run), seed, f"fine-tuning layer {layer}")
        return self._right(model)

    def copy(self, layer: int) -> Encoder:
        """The encoder with stochastic depth, where it can have that, cut after a layer (from 1)."""
        backbone = self.context.config.backbone
        try:
            found = Encoder(_with_drop_path(backbone, self.config.drop_path))
        except InputError:  # the network has no such setting
            found = Encoder(backbone)
        found.load_state_dict(self.context.encoder.state_dict())
        return cut(found, layer)

    def _train(self, model: "Classifier", rows: np.ndarray, seed: int, what: str) -> None:
        config, device, world = self.config, self.context.device, distributed.world_size()
        size = max(batch_of(config.batch, len(rows)) // (2 * world), 1) * 2 * world  # mixup is of pairs
        epochs = config.epochs or (EPOCHS if len(rows) >= MANY else EPOCHS_OF_FEW)
        batches = Batches(np.resize(rows, max(len(rows), size)), size, epochs, config.seed)
        optimizer = torch.optim.AdamW(groups(model, config, size), betas=BETAS)
        schedule = LambdaLR(optimizer, lambda step: rate_at(step / len(batches), config.warmup))
        images = Augmented(self.context.images.train, model.encoder, config.randaugment, seed)
        mix = _mix(config, model.classes)
        loader = batch_loader(images, Shares(batches, distributed.rank(), world), self.context.loaders)
        labels_of = self.context.images.train.labels
        assert labels_of is not None
        model.train()
        for step, batch in enumerate(loader):
            self.context.broken.update((f"{self.context.place}train", index) for index in batch.broken)
            labels = torch.from_numpy(labels_of[batch.ids.numpy()])
            there = (labels >= 0).nonzero()[:, 0]
            there = there[: len(there) // 2 * 2]
            optimizer.zero_grad()
            if len(there):
                x, y = normalise(batch.views["global"][0][there].to(device)), labels[there].to(device)
                x, target = mix(x, y) if mix else (x, y)
                with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                    logits = model(x)
                F.cross_entropy(logits.float(), target, label_smoothing=0.0 if mix else config.smoothing).backward()
            _average_gradients(model)
            optimizer.step()
            schedule.step()
            self.context.tell(what, step + 1, len(batches))
        for x in model.buffers():
            if x.is_floating_point():
                x.copy_(distributed.mean_over_ranks(x))

    @torch.no_grad()
    def _right(self, model: "Classifier") -> np.ndarray:
        backbone, val = self.context.config.backbone, self.context.images.val
        assert val is not None
        assert val.labels is not None
        crops = EvalImages(val, backbone.image_size, backbone.channels)
        parts = [self.queries[start : start + EVAL_BATCH].tolist() for start in range(0, len(self.queries), EVAL_BATCH)]
        own = parts[distributed.rank() :: distributed.world_size()]
        model.eval()
        said: dict[int, int] = {}
        for batch in batch_loader(crops, own, self.context.loaders):
            self.context.broken.update((f"{self.context.place}val", index) for index in batch.broken)
            predicted = model(normalise(batch.views["global"][0].to(self.context.device))).argmax(dim=1)
            said |= dict(zip(batch.ids.tolist(), predicted.tolist(), strict=True))
        said = {index: label for part in distributed.gather_objects(said) for index, label in part.items()}
        ids = np.array([index for index in sorted(said) if val.labels[index] >= 0])
        self.labels = val.labels[ids]
        return np.array([said[index] for index in ids]) == self.labels


class Classifier(nn.Module):
    """An encoder and a linear map of what it pools of its last layer."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder, self.classes = encoder, classes
        self.encoder.freeze_what_does_not_reach(Want(pooled=(encoder.depth,)))
        self.head = nn.Linear(encoder.widths[-1], classes)
        nn.init.trunc_normal_(self.head.weight, std=DEVIATION)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → logits (B, classes)."""
        return self.head(self.encoder(images, Want(pooled=(self.encoder.depth,))).pooled[self.encoder.depth])


class Augmented(Dataset):
    """A `Key` → a random crop of its image, flipped half of the time, through RandAugment: by seed, epoch and image."""

    def __init__(self, source: Source, encoder: Encoder, magnitude: int, seed: int):
        self.source, self.channels, self.seed = source, encoder.channels, seed
        size = encoder.image_size
        bicubic = v2.InterpolationMode.BICUBIC
        steps = [v2.RandomResizedCrop(size, interpolation=bicubic), v2.RandomHorizontalFlip()]
        if magnitude:
            mean = tuple(round(255 * x) for x in IMAGENET_MEAN)
            settings = {"translate_const": int(0.45 * size), "img_mean": mean}
            # A magnitude beyond 9 would keep no bit of a posterised image, which Pillow refuses.
            steps.append(rand_augment_transform(f"rand-m{magnitude}-mmax9-mstd0.5-inc1", settings))
        self.steps = steps

    def __getitem__(self, key: Key) -> Item:
        image, used, broken = read_or_replace(self.source, key.image, 3)  # as RandAugment wants it
        with _seeded(derive_seed(Use.FINETUNE, self.seed, key.epoch, used)):
            for step in self.steps:
                image = step(image)
        return Item(used, used, {"global": to_tensor(to_channels(image, self.channels))[None]}, broken)


def groups(model: Classifier, config: FinetuneConfig, batch: int) -> list[dict]:
    """Parameters with a rate for each layer, decreasing towards the images; no weight decay of biases and norms.

    Args:
        batch: images a step; a smaller one than rates are for does not lower them, as few images make few steps.
    """
    timm_model = model.encoder.model
    spared: set[str] = getattr(timm_model, "no_weight_decay", set)()
    found = param_groups_layer_decay(timm_model, config.weight_decay, spared, layer_decay=config.layer_decay)
    head = [
        {"params": [model.head.weight], "weight_decay": config.weight_decay, "lr_scale": 1.0},
        {"params": [model.head.bias], "weight_decay": 0.0, "lr_scale": 1.0},
    ]
    for group in found:  # timm counts down from the last block where there is no classifier, BEiT from the classifier
        group["lr_scale"] *= config.layer_decay
    rate = config.rate * max(batch / RATES_ARE_FOR, 1.0)
    return [
        {"params": group["params"], "weight_decay": group["weight_decay"], "lr": rate * group["lr_scale"]}
        for group in [*found, *head]
    ]


def rate_at(progress: float, warmup: float) -> float:
    """Of the rate, at a share of all steps: it rises to all of it, and falls to 0 along a cosine."""
    if progress < warmup:
        return progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warmup) / (1 - warmup))


def _mix(config: FinetuneConfig, classes: int) -> Mixup | None:
    """Mixup or CutMix, each half of the time, where there are both."""
    if not (config.mixup or config.cutmix):
        return None
    return Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=classes)


def _with_drop_path(backbone: BackboneConfig, rate: float) -> BackboneConfig:
    return backbone.model_copy(update={"kwargs": {**backbone.kwargs, "drop_path_rate": rate}})


def _average_gradients(model: nn.Module) -> None:
    if distributed.world_size() == 1:
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    flat = distributed.mean_over_ranks(
        torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
    )
    for p, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        p.grad = part.view_as(p)


@contextmanager
def _seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """All generators that torch, timm and torchvision draw from, seeded; and as they were afterwards."""
    before, numpy_before = random.getstate(), np.random.get_state()
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)
