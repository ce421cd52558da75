"""The two-view method: what SimCLR, BYOL, MoCo v3, SimSiam, DINO and their self-distilled forms have in common.

Features of both views → heads → predictions; targets from the teacher (or the other view); the
framework's loss in both directions, for the last layer and, with `distill`, for hidden ones.
Multi-crop (Caron et al., 2020) adds small local views that predict the targets of both.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_core import distributed, schedules
from ssl_core.errors import InputError
from ssl_core.methods.framework import Framework
from ssl_core.methods.hidden import is_active, layer_weights, scale_for_predictor, select_layers
from ssl_core.methods.method import Method, StepOutput, move_teachers
from ssl_core.networks.encoder import Backbone
from ssl_core.networks.heads import LayerHeads
from ssl_core.schema.distill import DistillConfig
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.positives import CacheConfig


class TwoView(Method):
    """A student that predicts the targets of the other view, at its last layer and at hidden ones.

    Args:
        backbone, framework, distill: what is trained, and how.
        cache: what stands for an image in the neighbour search; None where nothing is searched.
        local_size: pixels of the local views; None where there are none.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        framework: Framework,
        distill: DistillConfig | None,
        cache: CacheConfig | None = None,
        local_size: int | None = None,
    ):
        super().__init__()
        self.framework = framework
        self.cache = cache
        self.distill = distill if is_active(distill, framework.predictor) else None
        # Built in this order, so that one seed gives the plain and the distilled run the same weights.
        self.backbone = Backbone(backbone, local_size)
        depth = self.backbone.depth
        self.last = framework.heads(self.backbone.widths[-1:], framework.config.hidden_dim)
        self.hidden_layers = select_layers(self.distill.layers, depth) if self.distill else []
        self.layers = [*self.hidden_layers, depth]
        self.hidden: LayerHeads | None = self._hidden_heads() if self.hidden_layers else None
        self.norms = nn.ModuleList()
        if self.hidden_layers and self.distill.per_layer_norm:
            if not self.backbone.is_vit:
                raise InputError(f"distill.per_layer_norm: {backbone.name} has no final norm to copy")
            self.norms.extend(copy.deepcopy(self.backbone.final_norm) for _ in self.hidden_layers)
        if framework.ema_teacher:
            self.teacher = copy.deepcopy(self.backbone).requires_grad_(False)
            self.teacher_projector = copy.deepcopy(self.last.projector).requires_grad_(False)

    def _hidden_heads(self) -> LayerHeads:
        config, framework = self.distill, self.framework
        widths = [self.backbone.widths[layer - 1] for layer in self.hidden_layers]
        if config.projector_layers == 0:
            if not framework.predictor:
                raise InputError(
                    "distill.projector_layers: 0 needs a framework with a predictor (byol, mocov3, simsiam) to map "
                    f"features of width {widths[0]} to targets of width {framework.config.output_dim}"
                )
            if len(set(widths)) > 1:
                raise InputError("distill.projector_layers: 0 needs layers of one width (a ViT)")
        hidden_dim = config.hidden_dim or max(framework.config.hidden_dim // 2, 1)
        return framework.heads(widths, hidden_dim, config.projector_layers)

    @property
    def encoder(self) -> Backbone:
        return self.teacher if self.framework.evaluates_teacher else self.backbone

    @property
    def index_dim(self) -> int:
        projections = self.cache is not None and self.cache.feature == "projector"
        return self.framework.config.output_dim if projections else self.backbone.widths[-1]

    def constant_lr_parameters(self) -> list[nn.Parameter]:
        """A framework's predictors, if it says so."""
        if not self.framework.constant_predictor_lr:
            return []
        return [parameter for heads in self._all_heads for parameter in heads.predictor.parameters()]

    def drop_frozen_gradients(self, progress: float) -> None:
        """DINO's prototypes, in the first epochs.

        They do take part in the backward pass: every rank must see the same parameters in every step.
        """
        for heads in self._all_heads:
            for parameter in self.framework.frozen_parameters(heads, progress):
                parameter.grad = None

    def layer_features(self, images: Tensor) -> list[Tensor]:
        layers = range(1, self.encoder.depth + 1)
        if not self.norms or self.framework.evaluates_teacher:  # a teacher's only norm is the shared one
            return self.encoder(images, layers)
        own = dict(zip(self.hidden_layers, self.norms, strict=True))
        return self.encoder(images, layers, [own.get(layer, self.encoder.final_norm) for layer in layers])

    def forward(self, views: Tensor, progress: float, local_views: Tensor | None = None) -> StepOutput:
        norms = [*self.norms, self.backbone.final_norm] if self.norms else []
        features = self._features(self.backbone, views, self.layers, norms)
        taught, targets = self._teach(views) if self.framework.ema_teacher else (None, None)
        index_features = self._index_features(features[-1], taught, targets) if self.cache else None
        count = len(views)
        if local_views is not None:
            local = self._features(self.backbone, local_views, self.layers, norms)
            features = [torch.cat(pair) for pair in zip(features, local, strict=True)]
            count += len(local_views)
        output = self.objective(features, targets, progress, count)
        output.index_features = index_features
        return output

    def objective(
        self, features: Sequence[Tensor], targets: Tensor | None, progress: float, views: int = 2
    ) -> StepOutput:
        """The loss from the features of `self.layers`, each (V·B, D): views 1 and 2, then the local ones.

        Args:
            targets: the teacher's projections (2, B, D); None takes the student's own (SimCLR, SimSiam).
            views: V.
        """
        beta = self.distill.beta if self.distill and self.framework.predictor else 0.0
        groups = self._groups(views)
        h = self.last.project(features[-1:], groups)
        if targets is None:
            targets = _by_view(h, views)[0, :2]
            if self.framework.stop_gradient:
                targets = targets.detach()
        targets = self.framework.prepare_targets(targets, progress)
        if self.distill is None:
            loss = self._losses(self.last, h, targets, views)[0]
            return StepOutput(loss, {"loss": loss.detach(), "loss/last": loss.detach()})

        alpha, weights = layer_weights(self.distill, progress, len(self.hidden_layers), h.device)
        last = self._losses(self.last, scale_for_predictor(h, weights[-1:], beta), targets, views)
        parts: dict[str, Tensor | float] = {"loss/last": last[0].detach(), "alpha": alpha}
        total, predictor = last[0], last[0]
        if self.hidden is not None:
            h = self.hidden.project(features[:-1], groups)
            hidden = self._losses(self.hidden, scale_for_predictor(h, weights[:-1], beta), targets.detach(), views)
            parts["loss/hidden"] = hidden.mean().detach()
            total, predictor = total + alpha * hidden.mean(), predictor + hidden.sum()
        if beta:
            parts["loss/predictor"] = predictor.detach()
            total = total + beta * predictor
        return StepOutput(total, {"loss": total.detach(), **parts})

    @torch.no_grad()
    def update_teacher(self, progress: float) -> float | None:
        """Move the EMA teacher towards the student; the momentum used, or None where there is no teacher.

        Backbone and last projector; batch-norm buffers are the teacher's own.
        """
        if not self.framework.ema_teacher:
            return None
        momentum = schedules.cosine(progress, self.framework.config.momentum, 1.0)
        move_teachers(((self.teacher, self.backbone), (self.teacher_projector, self.last.projector)), momentum)
        return momentum

    @property
    def _all_heads(self) -> list[LayerHeads]:
        return [heads for heads in (self.last, self.hidden) if heads is not None]

    def _groups(self, views: int) -> int:
        """Batch-norm groups of the heads' rows: each view its own, local ones too, or all together."""
        return 1 if self.framework.joint_views else views

    def _features(self, backbone: Backbone, views: Tensor, layers: Sequence[int], norms: Sequence[nn.Module] = ()):
        """Features of views of one size, each (V·B, D). One pass, unless batch norm must see the views apart."""
        if not backbone.has_batch_norm or self.framework.joint_views:
            return backbone(views.flatten(0, 1), layers, norms)
        return [torch.cat(pair) for pair in zip(*(backbone(view, layers, norms) for view in views), strict=True)]

    @torch.no_grad()
    def _teach(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's last-layer features (2·B, D) of both views, and its projections (2, B, D)."""
        # Batch norm learns its statistics, but nothing in a teacher is dropped at random. Said at every step,
        # for an evaluation in between may have changed the mode.
        for module in self.teacher.modules():
            module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
        features = self._features(self.teacher, views, [self.teacher.depth])
        return features[0], _by_view(self.teacher_projector(features, self._groups(2)), 2)[0]

    @torch.no_grad()
    def _index_features(self, features: Tensor, taught: Tensor | None, targets: Tensor | None) -> Tensor:
        """(B, D) from last-layer features of both views (2·B, D): the student's, and the teacher's with its targets."""
        student = taught is None or self.cache.source == "student"
        if self.cache.feature == "projector":
            if student:
                targets = _by_view(self.last.project([features], self._groups(2)), 2)[0]
            both = targets.float()
        else:
            both = (features if student else taught).detach().float().unflatten(0, (2, -1))
        return both[0] if self.cache.view == "first" else F.normalize(both, dim=-1).mean(dim=0)

    def _losses(self, heads: LayerHeads, h_LND: Tensor, targets: Tensor, views: int) -> Tensor:
        """Losses (L,) of projections `h_LND` of all views against targets (2, B, D), all directions together."""
        q = _by_view(heads.predict(h_LND, self._groups(views)), views)
        first_row = 0
        if self.framework.gathers_targets:
            first_row = distributed.rank() * targets.shape[1]
            # (B, 2, D) gathers along the images; a gradient flows back only where targets carry one.
            gather = distributed.all_gather_with_grad if targets.requires_grad else distributed.all_gather
            targets = gather(targets.transpose(0, 1).contiguous()).transpose(0, 1)
        losses = [
            self.framework.loss(q[:, view], targets[other], targets[1 - other], first_row)
            for view in range(views)
            for other in (1, 0)
            if other != view
        ]
        return sum(losses) * ((2 if self.framework.sum_directions else 1) / len(losses))


def _by_view(x: Tensor, views: int) -> Tensor:
    """(L, V·B, D), view 1 first → (L, V, B, D)."""
    return x.unflatten(1, (views, -1))
