"""Views of an image that predict one another: what SimCLR, BYOL, MoCo v3, SimSiam and DINO have in common.

Features of all views → projector → predictor; every view predicts the targets of the other global view, at the last
layer and, with `distill`, at hidden ones. Local views (multi-crop, Caron et al., 2020) predict the targets of both.
"""

from collections.abc import Iterable, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from ssl_core import schedules
from ssl_core.errors import InputError
from ssl_core.networks.heads import LayerHeads, LayerMLP, scale_for_predictor
from ssl_core.networks.layers import Want
from ssl_core.objectives.base import Network, Objective, Place, See, Seen, Step
from ssl_core.schema.objectives import FrameworkBase

Config = TypeVar("Config", bound=FrameworkBase)


class ViewPrediction(Objective[Config]):
    """An objective says its heads, its keys, and the loss of one direction.

    Attributes:
        last, hidden: projector and predictor of the last layer, and of the hidden ones that learn.
    """

    joint: ClassVar[bool] = False
    """Views share one batch-norm batch: those of one size in the encoder, all of them in the heads."""
    sum_directions: ClassVar[bool] = False
    """The two directions (view 1 → 2, view 2 → 1) are summed; otherwise averaged. With more, twice the mean."""

    def __init__(self, config: Config, place: Place):
        super().__init__(config, place)
        widths = place.encoder.widths
        self.depth = place.encoder.depth
        self.last = self.make_heads(widths[-1:], config.hidden_dim, self.projector_layers)
        self.hidden: LayerHeads | None = self._hidden_heads(place) if len(self.layers) > 1 else None

    # What an objective says

    @property
    def projector_layers(self) -> int:
        """Linear maps of the last layer's projector."""
        return 3

    def make_projector(self, widths: Sequence[int], hidden_dim: int, depth: int) -> nn.Module:
        """For layers of these widths; as published for SDSSL (Sec. 4.1)."""
        return LayerMLP(widths, hidden_dim, self.config.output_dim, depth, output_norm=True)

    def make_predictor(self, widths: Sequence[int]) -> nn.Module | None:
        return None

    def keys(self, projections: Tensor, targets: Tensor | None, step: Step) -> Tensor:
        """What is predicted, (2, M, D), of the images of this rank or of all.

        Args:
            projections: (2, B, D) the student's own, of the global views, with gradient.
            targets: (2, B, D) the teacher's; None where there is none.
        """
        raise NotImplementedError

    def direction(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor) -> Tensor:
        """Losses (L,) of predictions of one view against keys of the other.

        Args:
            q_LBD: of L layers for the B images of this rank.
            same_MD: keys of the predictions' own view; for a local crop, of the global view that is not `other`.
        """
        raise NotImplementedError

    # What follows from it

    def needs(self) -> list[See]:
        student = Want(pooled=tuple(self.layers))
        found = [See("student", student, joint=self.joint)]
        if self.teacher:
            found.append(See("teacher", Want(pooled=(self.depth,)), joint=self.joint))
        return [*found, See("student", student, views="local", joint=self.joint)]

    def targets(self, seen: Seen, step: Step) -> Tensor | None:
        """The teacher's projections of both views: (2, B, D)."""
        if not self.teacher:
            return None
        features = seen.of("teacher").pooled[self.depth]
        return _by_view(seen.taught([features], self._groups(2)), 2)[0]

    def loss(self, seen: Seen, targets: Tensor | None, step: Step) -> Tensor:
        views, features = _features_of_all_views(seen, self.layers)
        return self.losses_of(features, views, targets, step)

    def losses_of(self, features: Sequence[Tensor], views: int, targets: Tensor | None, step: Step) -> Tensor:
        """(L,) from the features (V·B, D) of each layer: views 1 and 2, then the local ones."""
        groups = self._groups(views)
        h = self.last.project(features[-1:], groups)
        keys = self.keys(_by_view(h, views)[0, :2], targets, step)
        weights = step.weights
        if weights is not None:
            h = scale_for_predictor(h, weights[-1:], step.beta)
        losses = self._over_directions(self.last, h, keys, views)
        if self.hidden is None:
            return losses
        h = self.hidden.project(features[:-1], groups)
        if weights is not None:
            h = scale_for_predictor(h, weights[:-1], step.beta)
        return torch.cat([self._over_directions(self.hidden, h, keys.detach(), views), losses])

    def momentum(self, progress: float) -> float | None:
        return schedules.cosine(progress, self.config.momentum, 1.0) if self.teacher else None

    @property
    def taught(self) -> nn.Module | None:
        return self.last.projector if self.teacher else None

    def embed(self, seen: Seen, network: Network, targets: Tensor | None) -> Tensor:
        """Projections of the global views: (2, B, D)."""
        if network == "teacher" and targets is not None:
            return targets
        features = seen.of("student").pooled[self.depth]
        return _by_view(self.last.project([features], self._groups(2)), 2)[0]

    @property
    def embedding_dim(self) -> int:
        return self.config.output_dim

    def make_heads(self, widths: Sequence[int], hidden_dim: int, projector_layers: int) -> LayerHeads:
        """Projectors and predictors for layers of these widths; 0 projector layers are none."""
        projector = self.make_projector(widths, hidden_dim, projector_layers) if projector_layers else None
        if projector is not None:
            widths = [self.config.output_dim] * len(widths)
        return LayerHeads(projector, self.make_predictor(widths))

    @property
    def all_heads(self) -> Iterable[LayerHeads]:
        return [heads for heads in (self.last, self.hidden) if heads is not None]

    def _hidden_heads(self, place: Place) -> LayerHeads:
        assert place.distill is not None, "hidden layers learn by it alone"
        distill, widths = place.distill, [place.encoder.widths[layer - 1] for layer in self.layers[:-1]]
        if distill.projector_layers == 0:
            _check_bare(widths, self.config.output_dim, self.has_predictor)
        hidden_dim = distill.hidden_dim or max(self.config.hidden_dim // 2, 1)
        return self.make_heads(widths, hidden_dim, distill.projector_layers)

    def _groups(self, views: int) -> int:
        """Batch-norm groups of the heads' rows: each view its own, local ones too, or all together."""
        return 1 if self.joint else views

    def _over_directions(self, heads: LayerHeads, h_LND: Tensor, keys: Tensor, views: int) -> Tensor:
        """Losses (L,) of projections of all views against keys (2, M, D), all directions together."""
        q = _by_view(heads.predict(h_LND, self._groups(views)), views)
        losses = [
            self.direction(q[:, view], keys[other], keys[1 - other])
            for view in range(views)
            for other in (1, 0)
            if other != view
        ]
        return sum(losses[1:], losses[0]) * ((2 if self.sum_directions else 1) / len(losses))


def _features_of_all_views(seen: Seen, layers: Sequence[int]) -> tuple[int, list[Tensor]]:
    """How many views the student saw, and the features of each layer, (V·B, D): global views first."""
    kinds = [kind for kind in ("global", "local") if seen.has("student", kind)]
    each = [seen.of("student", kind).pooled for kind in kinds]
    views = sum(len(seen.batch.views[kind]) for kind in kinds)
    if len(each) == 1:
        return views, [each[0][layer] for layer in layers]
    return views, [torch.cat([pooled[layer] for pooled in each]) for layer in layers]


def _check_bare(widths: Sequence[int], output_dim: int, has_predictor: bool) -> None:
    """Whether hidden layers of these widths can learn without a projector."""
    if not has_predictor:
        raise InputError(
            "distill.projector_layers: 0 needs a framework with a predictor (byol, mocov3, simsiam) to map "
            f"features of width {widths[0]} to targets of width {output_dim}"
        )
    if len(set(widths)) > 1:
        raise InputError("distill.projector_layers: 0 needs layers of one width (a ViT)")


def _by_view(x: Tensor, views: int) -> Tensor:
    """(L, V·B, D), view 1 first → (L, V, B, D)."""
    return x.unflatten(1, (views, -1))
