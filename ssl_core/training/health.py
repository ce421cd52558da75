"""What can go wrong in a run that goes on, and what ends it: broken images, collapse, divergence."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.data.sources.base import Images
from ssl_core.errors import DataError, TrainingDiverged
from ssl_core.evaluation.base import source_of
from ssl_core.evaluation.collapse import collapse, images_measured
from ssl_core.evaluation.metrics import known
from ssl_core.schema.optim import OptimConfig
from ssl_core.schema.run import RunConfig

NAMED = 5  # broken images in one warning
WORSE, WORSE_RANK = 0.98, 0.7  # share of the k-NN accuracy, or of RankMe, that weights began with

Broken = tuple[str, int]
"""An image that cannot be decoded: its set (`train`, `val`) and its index there."""


class BrokenImages:
    """Images that could not be decoded, and how many may be.

    Attributes:
        most: share of the training images that may be.
        known: to every rank.
        met: by this rank since the last `merge`.
    """

    def __init__(self, config: RunConfig, images: Images):
        self.config, self.images, self.most = config, images, config.data.max_broken
        self.known: set[Broken] = set()
        self.met: set[Broken] = set()

    def meet(self, indices: Iterable[int]) -> None:
        """Training images that this rank could not decode.

        Raises:
            DataError: there are too many.
        """
        before = len(self.met)
        self.met.update(("train", index) for index in indices)
        if len(self.met) > before:
            self.check()

    def merge(self) -> list[Broken]:
        """Let every rank know what any has met; what is new. All ranks do it together."""
        new = {item for part in distributed.gather_objects(self.met) for item in part} - self.known
        self.known |= new
        self.met.clear()
        return sorted(new)

    def check(self) -> None:
        """Whether the training images are still good enough.

        Raises:
            DataError: more of them are known to be broken than `data.max_broken` allows.
        """
        broken = sorted(index for split, index in self.known | self.met if split == "train")
        total = len(self.images.train)
        if len(broken) > self.most * total:
            raise DataError(
                f"{len(broken)} of {total} training images cannot be decoded, more than data.max_broken={self.most:g} "
                f"allows; the first is {self.images.train.where(broken[0])}"
            )


def describe_broken(items: list[Broken], config: RunConfig, images: Images) -> str:
    """A warning that names some images that cannot be decoded."""
    named = [source_of(name, config, images).where(index) for name, index in items[:NAMED]]
    more = f" and {len(items) - NAMED} more" if len(items) > NAMED else ""
    return f"cannot decode {', '.join(named)}{more}; other images take their place"


def warnings(
    record: Mapping[str, float], broken: BrokenImages, new: list[Broken], first: Mapping[str, float] | None = None
) -> list[str]:
    """What somebody should know of an epoch that has ended, with what `broken` met in it for the first time.

    Args:
        first: the figures before training, where it started from weights that were good already.
    """
    found = [describe_broken(new, broken.config, broken.images)] if new else []
    images = images_measured(broken.config, broken.images)
    if record["epoch"] and (collapsed := collapse(record, images)):
        found.append(f"epoch {record['epoch']:.0f}: {collapsed}")
    if first is not None and (fallen := fall(record, first)):
        found.append(f"epoch {record['epoch']:.0f}: {fallen}")
    return found


def fall(record: Mapping[str, float], first: Mapping[str, float]) -> str | None:
    """A sentence where training has made weights worse than they were, by k-NN or, without labels, by RankMe."""
    least = {"knn/last": WORSE, "rankme/last": WORSE_RANK}
    name = next((name for name in least if name in first), None)
    if name is None or not record.get(name, math.inf) < first[name] * least[name]:
        return None
    metric = known(name)
    was, now = metric.form.format(first[name]), metric.form.format(record[name])
    return (
        f"{metric.title} of the last layer is {now}, below the {was} that the weights began with; a lower optim.lr, "
        "optim.layer_decay=0.75 and longer optim.warm_heads forget less"
    )


def check_finite(norm: Tensor, figures: Mapping[str, Tensor | float], config: OptimConfig, where: str) -> None:
    """Whether a step's gradient is finite. After averaging over ranks it is the same on all, and so is the error.

    Args:
        norm: of the gradient.
        figures: of the step: one that is not finite is named.
        where: names the step.

    Raises:
        TrainingDiverged: with remedies.
    """
    if torch.isfinite(norm):
        return
    infinite = [name for name, value in figures.items() if not torch.isfinite(torch.as_tensor(value))]
    what = f"{', '.join(infinite)} is not finite" if infinite else "the gradient is not finite (the loss is)"
    remedies = ["a lower optim.lr", "longer optim.warmup_epochs", "optim.clip_grad=1"]
    if config.precision != "fp32":
        remedies.append("optim.precision=fp32")
    raise TrainingDiverged(f"{where}: {what}; try {', '.join(remedies)}")
