"""Copy detection (Douze et al., 2009; the protocol of DINO, SDSSL, Table 3): which image is this a copy of?

Copies are images that we distort, or Copydays' own. The descriptor of an image is its pooled feature beside the
generalised mean (p = 4) of its patch tokens, whitened by a PCA of images that are in none of the other sets.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import average_precision_score
from torch import Tensor

from ssl_core.data.distortions import Distorted, distort
from ssl_core.data.sources.base import Images, Source, Subset
from ssl_core.data.sources.copydays import ORIGINAL, copydays
from ssl_core.data.sources.decode import decode
from ssl_core.data.views import to_channels
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Evaluator, own_layers
from ssl_core.evaluation.features import Context, chosen
from ssl_core.networks.layers import Want
from ssl_core.schema.evaluation import CopiesConfig
from ssl_core.schema.evaluation.same import COPY_KINDS
from ssl_core.seeds import Use

P = 4.0  # of the generalised mean
SMALLEST = 1e-6  # value that it takes for one above 0, as DINO has it
FLOOR = 1e-5  # of the largest variance: smaller ones count as that, or whitening would blow up what is nothing
FEWEST = 8  # images that whitening is fitted to


@dataclass(frozen=True)
class Sets:
    """The images of the protocol, no two sets of which have one in common.

    Attributes:
        queries: copies; of these `answers` (Q,) are the numbers of the originals, and `kinds` (Q,) what was done.
        originals, distractors: the database.
        whitening: what PCA is fitted to.
    """

    queries: Source
    answers: np.ndarray
    kinds: np.ndarray | None
    originals: Source
    distractors: Source
    whitening: Source


class Copies(Evaluator[CopiesConfig]):
    def __init__(self, config: CopiesConfig, context: Context):
        super().__init__(config, context)
        self.sets = _sets(config, context.images)
        self.layers = tuple(layer + 1 for layer in own_layers(config, context))
        self.queries, asked = self._describe(self.sets.queries, "copies")
        originals, there = self._describe(self.sets.originals, "originals")
        distractors, _ = self._describe(self.sets.distractors, "distractors")
        self.database = {layer: torch.cat([originals[layer], distractors[layer]]) for layer in originals}
        self.others, _ = self._describe(self.sets.whitening, "images for whitening")
        row = np.full(len(there), -1)
        row[there] = np.arange(there.sum())
        self.answers = row[self.sets.answers[asked]]
        self.kinds = None if self.sets.kinds is None else self.sets.kinds[asked]

    @classmethod
    def check(cls, config: CopiesConfig, images: Images) -> None:
        _sets(config, images)

    def measure(self, layer: int) -> dict[str, float]:
        device = self.context.device
        whiten = Whitening(self.others[layer].to(device))
        asked = self.answers >= 0
        queries = F.normalize(whiten(self.queries[layer].to(device)), dim=1)[torch.from_numpy(asked)]
        similar = (queries @ F.normalize(whiten(self.database[layer].to(device)), dim=1).T).cpu()
        answers = self.answers[asked]
        precision = average_precisions(similar, torch.from_numpy(answers)).numpy()
        self.outcomes[layer] = precision
        found = {
            "copies": float(precision.mean()),
            "copies_micro": micro_average_precision(similar, torch.from_numpy(answers)),
        }
        by_original = np.array([precision[answers == answer].mean() for answer in np.unique(answers)])
        if len(by_original) > 1:
            found["copies_interval"] = float(1.96 * by_original.std(ddof=1) / len(by_original) ** 0.5)
        if self.kinds is not None:
            kinds = self.kinds[asked]
            for number, kind in enumerate(COPY_KINDS):
                if (kinds == number).any():
                    found[f"copies_{kind}"] = float(precision[kinds == number].mean())
        return found

    def _describe(self, source: Source, what: str) -> tuple[dict[int, Tensor], np.ndarray]:
        """Descriptors of the layers (from 0) of the images that could be decoded, and which (N,) these are."""

        def tell(_: str, done: int, total: int) -> None:
            self.context.tell(f"looking at {what}", done, total)

        context = replace(self.context, images=Images(source, None), broken=set(), tell=tell)
        found: dict[int, list[Tensor]] = {layer - 1: [] for layer in self.layers}
        used = []
        for ids, _, seen in context.batches("train", np.arange(len(source)), Want(self.layers, self.layers)):
            used.append(ids)
            for layer in self.layers:
                found[layer - 1].append(descriptors(seen.pooled[layer].float(), seen.patches[layer].float()).cpu())
        there = np.concatenate(used) == np.arange(len(source))  # another image stands in for a broken one
        return {layer: torch.cat(parts)[torch.from_numpy(there)] for layer, parts in found.items()}, there


def descriptors(pooled: Tensor, patches: Tensor) -> Tensor:
    """Pooled features (N, D) beside the generalised mean of patch tokens (N, P, D): (N, 2·D) (Radenović et al., Eq. 3).

    (mean max(x, ε)⁴)^¼ for every dimension.
    """
    mean = patches.clamp(min=SMALLEST).pow(P).mean(dim=1).pow(1.0 / P)
    return torch.cat([pooled, mean], dim=1)


class Whitening:
    """Fitted to descriptors (N, D), makes any of them uncorrelated and of deviation 1: (B, D) → (B, min(N − 1, D))."""

    def __init__(self, x: Tensor):
        x = x.double()
        self.mean = x.mean(dim=0)
        _, singular, directions = torch.linalg.svd(x - self.mean, full_matrices=False)
        count = min(len(x) - 1, x.shape[1])
        variances = singular[:count].square() / (len(x) - 1)
        variances = variances.clamp(min=max(FLOOR * variances[0].item(), 1e-30))
        self.map = directions[:count].T / variances.sqrt()

    def __call__(self, x: Tensor) -> Tensor:
        return ((x.double() - self.mean) @ self.map).float()


def average_precisions(similar: Tensor, answers: Tensor) -> Tensor:
    """Of each copy, 1 ÷ the rank of its original, the only image that is right; of equal ones, the original is last.

    Args:
        similar: (Q, N) of copies to the database.
        answers: (Q,) rows of the database.
    """
    right = similar.gather(1, answers[:, None])
    return 1.0 / (similar >= right).sum(dim=1).double()


def micro_average_precision(similar: Tensor, answers: Tensor) -> float:
    """Average precision of all (Q, N) pairs in one list: similarities of different copies are to be comparable
    (Douze et al., 2021)."""
    right = F.one_hot(answers, similar.shape[1])
    return float(average_precision_score(right.flatten().numpy(), similar.flatten().numpy()))


def strongly(image: Image.Image, kind: str, generator: np.random.Generator, backgrounds: Source) -> Image.Image:
    """A copy of an RGB image; one that is inserted is so into some image of `backgrounds`."""
    behind = int(generator.integers(len(backgrounds)))
    return distort(image, kind, generator, lambda: to_channels(backgrounds.read(behind), 3))


class Files(Source):
    """Images by their files."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        return decode(self.paths[index].read_bytes())

    def where(self, index: int) -> str:
        return str(self.paths[index])


def _sets(config: CopiesConfig, images: Images) -> Sets:
    """Who is copied, who distracts, who whitens: always the same.

    Raises:
        InputError: too few images for that, or no Copydays.
    """
    pool = images.train if images.val is None else images.val
    order = chosen(pool, len(pool))
    most = len(order) // (4 if images.val is None else 2)  # of any one set, where there are few
    count = 0 if config.data is not None else min(config.originals, most)
    distractors = order[count : count + (min(config.distractors, most) if images.val is None else config.distractors)]
    rest = order[count + len(distractors) :] if images.val is None else chosen(images.train, config.whitening)
    others = Subset(images.train, rest[: config.whitening])
    if len(others) < FEWEST or (config.data is None and count < 2):
        raise InputError(
            f"copies needs 2 originals and {FEWEST} other images for whitening at least; got {count} of "
            f"{'train' if images.val is None else 'val'} and {len(others)} of train"
        )
    if config.data is not None:
        return _copydays(config, Subset(pool, distractors), others)
    originals = Subset(pool, order[:count])
    change = partial(strongly, backgrounds=others)
    queries = Distorted(originals, order[:count], COPY_KINDS, change, Use.COPIES)
    answers, kinds = np.divmod(np.arange(len(queries)), len(COPY_KINDS))
    return Sets(queries, answers, kinds, originals, Subset(pool, distractors), others)


def _copydays(config: CopiesConfig, distractors: Source, others: Source) -> Sets:
    assert config.data is not None
    root = Path(config.data.copydays)
    try:
        originals, copies = copydays(root, ORIGINAL), copydays(root, config.data.part)
    except InputError as error:
        raise InputError(f"data.copydays: {error}") from error
    row = {block: number for number, (_, block) in enumerate(originals)}
    if alone := [file for file, block in copies if block not in row]:
        raise InputError(f"data.copydays: {alone[0]} has no original in {root / ORIGINAL}")
    answers = np.array([row[block] for _, block in copies])
    return Sets(Files([f for f, _ in copies]), answers, None, Files([f for f, _ in originals]), distractors, others)
