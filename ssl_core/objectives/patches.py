"""What is hidden, from what is seen: I-JEPA and Bootleg, and the skeleton that MAE shares.

The student sees some patches of an image; a narrow ViT predicts from them what is hidden; what that is, and by which
measure, an objective says.
"""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core import schedules
from ssl_core.batch import Batch
from ssl_core.errors import InputError
from ssl_core.networks.layers import Hide, Want
from ssl_core.networks.predictor import Predictor
from ssl_core.objectives.base import Objective, Place, See, Seen, Step
from ssl_core.schema.layers import chosen_layers
from ssl_core.schema.objectives import BootlegConfig, LatentBase, MaskedBase

Config = TypeVar("Config", bound=MaskedBase)


class PatchPrediction(Objective[Config]):
    """A student that sees a part of the first view of each image, and a predictor of the rest.

    Attributes:
        layers: what is predicted, by layer, from 1; the last layer's number stands for a target of another kind.
    """

    def __init__(self, config: Config, place: Place):
        super().__init__(config, place)
        encoder = place.encoder
        self.grid, self.depth = encoder.grid, encoder.depth
        if place.teacher is not None and place.teacher.grid != self.grid:
            raise InputError(
                f"teacher: it sees {place.teacher.grid[0]} × {place.teacher.grid[1]} patches of an image, the student "
                f"{self.grid[0]} × {self.grid[1]}; both must see the same"
            )
        config.mask.check(self.grid, f"{place.key}.mask")
        self.layers = self.choose_layers(place)
        self.weights = self.weigh(place)
        width, targets = encoder.widths[-1], len(self.layers)
        self.predictor = Predictor(config.predictor, width, targets, self.target_dim(place), self.grid)

    # What an objective says

    def choose_layers(self, place: Place) -> list[int]:
        return [place.encoder.depth]

    def weigh(self, place: Place) -> Tensor:
        """Weights (H,) of the losses of `layers`, whose sum is 1."""
        return torch.full((len(self.layers),), 1.0 / len(self.layers))

    def target_dim(self, place: Place) -> int:
        """Width of a patch's target."""
        raise NotImplementedError

    def teach(self, seen: Seen) -> Tensor:
        """Targets (H, B, N, target_dim) of all N patches, float32, without gradient."""
        raise NotImplementedError

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Losses (H, B, T, P) of every hidden patch, from (H, B, T, P, target_dim) each."""
        raise NotImplementedError

    # What follows from it

    def needs(self) -> list[See]:
        return [See("student", Want(patches=(self.depth,)), first=True, hidden=True)]

    def hide(self, batch: Batch) -> Hide:
        return Hide.drop(batch.masks[self.config.name].context)

    def targets(self, seen: Seen, step: Step | None = None) -> Tensor:
        """Of every hidden patch: (H, B, T, P, target_dim), float32."""
        masks = seen.batch.masks[self.config.name]
        every = self.teach(seen)
        index = masks.targets.flatten(1)[None, :, :, None].expand(len(every), -1, -1, every.shape[-1])
        return every.gather(2, index).unflatten(2, masks.targets.shape[1:])

    def predict(self, seen: Seen) -> Tensor:
        """The same of the predictor's."""
        context = seen.of("student").patches[self.depth]
        return self.predictor(context, seen.batch.masks[self.config.name]).float()

    def loss(self, seen: Seen, targets: Tensor, step: Step) -> Tensor:
        return self.measure(self.predict(seen), targets).mean(dim=(1, 2, 3))

    def parts(self, losses: Tensor) -> dict[str, Tensor]:
        found = super().parts(losses)
        if len(losses) > 1:
            found |= {f"target_{layer:02d}": value for layer, value in zip(self.layers, losses, strict=True)}
        return found

    @torch.no_grad()
    def error_maps(self, seen: Seen) -> Tensor:
        """How far off predictions are: (H, B, rows, columns), averaged where blocks overlap, NaN where none is."""
        losses = self.measure(self.predict(seen), self.targets(seen)).flatten(2)
        where = seen.batch.masks[self.config.name].targets.flatten(1).expand_as(losses)
        sums, counts = (
            torch.zeros(*losses.shape[:2], self.grid[0] * self.grid[1], device=losses.device).scatter_add_(2, where, x)
            for x in (losses, torch.ones_like(losses))
        )
        return (sums / counts).unflatten(2, self.grid)


class IJEPA(PatchPrediction[LatentBase]):
    """I-JEPA (Assran et al., 2023): the last layer of a teacher that sees the whole image, normalised by patch."""

    teacher = True
    evaluates_teacher = True

    def needs(self) -> list[See]:
        return [*super().needs(), See("teacher", Want(patches=tuple(self.layers)), first=True)]

    def choose_layers(self, place: Place) -> list[int]:
        return [place.teacher_encoder.depth]

    def target_dim(self, place: Place) -> int:
        return place.teacher_encoder.widths[-1]

    def teach(self, seen: Seen) -> Tensor:
        patches = seen.of("teacher").patches
        tokens = torch.stack([patches[layer] for layer in self.layers]).float()
        return F.layer_norm(tokens, tokens.shape[-1:])

    def measure(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return F.smooth_l1_loss(predictions, targets, reduction="none").mean(dim=-1)

    def momentum(self, progress: float) -> float:
        return schedules.linear(progress, self.config.momentum, self.config.momentum_end)


class Bootleg(IJEPA):
    """Bootleg (Lowe et al., 2026, arXiv 2603.15553): predict several layers of the teacher at once.

    Each target layer has a head of its own on the predictor's one pass, and is normalised token by token, so that none
    outweighs the others. With the last layer alone it is I-JEPA.
    """

    config: BootlegConfig

    def choose_layers(self, place: Place) -> list[int]:
        return chosen_layers(self.config.targets, place.teacher_encoder.depth, f"{place.key}.targets")

    def weigh(self, place: Place) -> Tensor:
        given = self.config.target_weights
        if given is None:
            return super().weigh(place)
        if len(given) != len(self.layers):
            raise InputError(f"{place.key}.target_weights: {len(given)} of them for target layers {self.layers}")
        return torch.tensor(given) / sum(given)
