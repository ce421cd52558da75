"""Few-shot classification by prototypes, as AdaSim's Table 3 has it (the protocol of Ericsson et al., 2021)."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context, chosen_labels
from ssl_core.schema.evaluation import FewshotConfig
from ssl_core.seeds import Use, derive_seed

NUMBERS = 1 << 25  # random numbers or features at once; bounds memory


class Fewshot(Evaluator[FewshotConfig]):
    """Of images of val alone: nothing is chosen and nothing fitted but the prototypes of an episode."""

    def __init__(self, config: FewshotConfig, context: Context):
        super().__init__(config, context)
        self.features, labels = context.labelled("val", config.max_images)
        check_classes(config, labels)
        self.episodes = np.concatenate(list(episodes(config, labels)))

    @classmethod
    def check(cls, config: FewshotConfig, images: Images) -> None:
        check_classes(config, chosen_labels(images.val, config.max_images))

    def measure(self, layer: int) -> dict[str, float]:
        features = self.features[layer].to(self.context.device).float()
        found = {}
        for name, compared in (("fewshot", features), ("fewshot_cosine", F.normalize(features, dim=1))):
            right = accuracies(compared, torch.from_numpy(self.episodes), self.config.shots, "cosine" in name)
            self.outcomes.setdefault(layer, right.cpu().numpy())  # of the first; every encoder has the same episodes
            found[name] = right.mean().item()
            found[f"{name}_interval"] = 1.96 * right.std().item() / len(right) ** 0.5
        return found


def check_classes(config: FewshotConfig, labels: np.ndarray) -> None:
    """Whether enough classes of val have images enough for an episode.

    Raises:
        InputError: how many have.
    """
    least, most = config.shots + config.queries, len(np.unique(labels))
    able = len(_able(config, labels))
    if able < config.ways:
        raise InputError(
            f"ways: {config.ways} classes of at least {config.shots} + {config.queries} images are needed in val; "
            f"{able} of its {most} classes have {least}"
            + (f": take ways: {able}" if able > 1 else ": take fewer queries or shots")
        )


def _able(config: FewshotConfig, labels: np.ndarray) -> list[np.ndarray]:
    """The rows of each class that can be in an episode."""
    rows = (np.flatnonzero(labels == label) for label in np.unique(labels))
    return [row for row in rows if len(row) >= config.shots + config.queries]


def episodes(config: FewshotConfig, labels: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of images of labels (N,), in parts: (E, ways, shots + queries), no class and no image twice in an episode.

    Classes are drawn evenly, whatever their sizes, and so are a class's images.
    """
    rows = _able(config, labels)
    sizes = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), sizes.max()), np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    draws = np.random.default_rng(derive_seed(Use.EPISODES, config.seed))
    step = max(1, NUMBERS // (config.ways * padded.shape[1] + len(rows)))
    for start in range(0, config.episodes, step):
        count = min(step, config.episodes - start)
        classes = draws.random((count, len(rows))).argsort(axis=1)[:, : config.ways]
        order = draws.random((count, config.ways, padded.shape[1]))
        order[np.arange(padded.shape[1]) >= sizes[classes][:, :, None]] = 2.0  # behind all images that there are
        images = order.argsort(axis=2)[:, :, : config.shots + config.queries]
        yield padded[classes[:, :, None], images]


def accuracies(features: Tensor, episodes: Tensor, shots: int, cosine: bool) -> Tensor:
    """The share of queries of each episode that are nearest to the prototype of their class (Snell et al., Eq. 1, 2).

    Args:
        features: (N, D), of unit length for the cosine.
        episodes: (E, W, S + Q) rows; the first `shots` of a class give its prototype, their mean.
        cosine: by cosine similarity to the prototype, else by Euclidean distance.

    Returns:
        (E,)
    """
    ways, size = episodes.shape[1:]
    truth = torch.arange(ways, device=features.device)[:, None].expand(ways, size - shots)
    found = []
    for part in episodes.to(features.device).split(max(1, NUMBERS // (ways * size * features.shape[1]))):
        drawn = features[part]  # (e, W, S + Q, D)
        prototypes, queries = drawn[:, :, :shots].mean(dim=2), drawn[:, :, shots:].flatten(1, 2)
        if cosine:
            near = queries @ F.normalize(prototypes, dim=2).transpose(1, 2)
        else:  # −‖q − p‖², less ‖q‖², which all classes share
            near = 2 * queries @ prototypes.transpose(1, 2) - prototypes.square().sum(dim=2)[:, None]
        found.append((near.argmax(dim=2).unflatten(1, (ways, -1)) == truth).float().mean(dim=(1, 2)))
    return torch.cat(found)
