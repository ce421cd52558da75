"""Positives by class: what labels could give at best."""

import numpy as np

from ssl_core.data.sources.base import Images
from ssl_core.positives.base import Positives
from ssl_core.schema.run import RunConfig
from ssl_core.seeds import Use, derive_seed


class LabelPositives(Positives):
    """A random image of the same class, ever more often (AdaSim, Sec. 4.4): an upper bound, for labelled sets."""

    def __init__(self, config: RunConfig, images: Images):
        super().__init__(config, images)
        assert self.labels is not None, "images without labels are refused before"
        labels = np.array(self.labels)
        bare = labels < 0  # each is a class of its own: its partner is itself
        labels[bare] = labels.max() + 1 + np.arange(bare.sum())
        self._class_of = labels
        self._by_class = np.argsort(labels, kind="stable")
        self._sizes = np.bincount(labels)
        self._starts = np.cumsum(self._sizes) - self._sizes

    def partners(self, epoch: int) -> np.ndarray:
        share = self.config.positives.label_share * (epoch - 1) / max(self.config.optim.epochs - 1, 1)
        generator = np.random.default_rng(derive_seed(Use.PARTNERS, self.config.seed, epoch))
        chosen, place = generator.random((2, self.num_images))
        within = (place * self._sizes[self._class_of]).astype(np.int64)
        same = self._by_class[self._starts[self._class_of] + within]
        return np.where(chosen < share, same, np.arange(self.num_images)).astype(np.int32)

    def figures(self, epoch: int) -> dict[str, float]:
        return self._about(self.partners(epoch))
