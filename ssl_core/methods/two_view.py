"""The two-view method: what SimCLR, BYOL, MoCo v3 and their self-distilled forms have in common.

Features of both views → heads → predictions; targets from the teacher (or the other view); the
framework's loss in both directions, for the last layer and, with `distill`, for hidden ones.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_core import distributed, schedules
from ssl_core.backbones import Backbone
from ssl_core.config import BackboneConfig, DistillConfig
from ssl_core.errors import InputError
from ssl_core.heads import LayerHeads
from ssl_core.methods.framework import Framework
from ssl_core.methods.hidden import is_active, layer_weights, scale_for_predictor, select_layers


@dataclass
class StepOutput:
    """A step's loss, and its parts by metric name (tensors without gradient, or floats)."""

    loss: Tensor
    parts: dict[str, Tensor | float]


class TwoView(nn.Module):
    """A student that predicts the targets of the other view, at its last layer and at hidden ones."""

    def __init__(self, backbone: BackboneConfig, framework: Framework, distill: DistillConfig | None):
        super().__init__()
        self.framework = framework
        self.distill = distill if is_active(distill, framework.predictor) else None
        # Built in this order, so that one seed gives the plain and the distilled run the same weights.
        self.backbone = Backbone(backbone)
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
            # Batch norm learns its statistics, but nothing in a teacher is dropped at random.
            for module in self.teacher.modules():
                module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)

    def _hidden_heads(self) -> LayerHeads:
        config, framework = self.distill, self.framework
        widths = [self.backbone.widths[layer - 1] for layer in self.hidden_layers]
        if config.projector_layers == 0:
            if not framework.predictor:
                raise InputError(
                    "distill.projector_layers: 0 needs a framework with a predictor (byol, mocov3) to map "
                    f"features of width {widths[0]} to targets of width {framework.config.output_dim}"
                )
            if len(set(widths)) > 1:
                raise InputError("distill.projector_layers: 0 needs layers of one width (a ViT)")
        hidden_dim = config.hidden_dim or max(framework.config.hidden_dim // 2, 1)
        return framework.heads(widths, hidden_dim, config.projector_layers)

    @property
    def encoder(self) -> Backbone:
        """The backbone that is evaluated and exported."""
        return self.backbone

    def layer_features(self, images: Tensor) -> list[Tensor]:
        """Features of every layer of the encoder for `images` (B, C, H, W): a list of (B, widths[l])."""
        layers = range(1, self.encoder.depth + 1)
        if not self.norms:
            return self.encoder(images, layers)
        own = dict(zip(self.hidden_layers, self.norms, strict=True))
        return self.encoder(images, layers, [own.get(layer, self.encoder.final_norm) for layer in layers])

    def forward(self, views: Tensor, progress: float) -> StepOutput:
        """One training step's loss.

        Args:
            views: (2, B, C, H, W), normalised; this rank's images.
            progress: steps done of all steps, in [0, 1].
        """
        norms = [*self.norms, self.backbone.final_norm] if self.norms else []
        features = self._features(self.backbone, views, self.layers, norms)
        targets = self._targets(views) if self.framework.ema_teacher else None
        return self.objective(features, targets, progress)

    def objective(self, features: Sequence[Tensor], targets: Tensor | None, progress: float) -> StepOutput:
        """The loss from the features of `self.layers`, each (2·B, D) with view 1 first.

        Args:
            targets: the teacher's projections (2, B, D); None takes the student's own (SimCLR).
        """
        beta = self.distill.beta if self.distill and self.framework.predictor else 0.0
        h = self.last.project(features[-1:], self._groups)
        if targets is None:
            targets = _by_view(h)[0]
        if self.distill is None:
            loss = self._losses(self.last, h, targets)[0]
            return StepOutput(loss, {"loss": loss.detach(), "loss/last": loss.detach()})

        alpha, weights = layer_weights(self.distill, progress, len(self.hidden_layers), h.device)
        last = self._losses(self.last, scale_for_predictor(h, weights[-1:], beta), targets)
        parts: dict[str, Tensor | float] = {"loss/last": last[0].detach(), "alpha": alpha}
        total, predictor = last[0], last[0]
        if self.hidden is not None:
            h = self.hidden.project(features[:-1], self._groups)
            hidden = self._losses(self.hidden, scale_for_predictor(h, weights[:-1], beta), targets.detach())
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
        pairs = [
            (old, new)
            for teacher, student in ((self.teacher, self.backbone), (self.teacher_projector, self.last.projector))
            for old, new in zip(teacher.parameters(), student.parameters(), strict=True)
            if new.requires_grad
        ]
        torch._foreach_lerp_([old for old, _ in pairs], [new for _, new in pairs], 1.0 - momentum)
        return momentum

    @property
    def _groups(self) -> int:
        return 1 if self.framework.joint_views else 2

    def _features(self, backbone: Backbone, views: Tensor, layers: Sequence[int], norms: Sequence[nn.Module] = ()):
        """Features of both views, each (2·B, D). One pass, unless batch norm must see the views apart."""
        if not backbone.has_batch_norm or self.framework.joint_views:
            return backbone(views.flatten(0, 1), layers, norms)
        return [torch.cat(pair) for pair in zip(*(backbone(view, layers, norms) for view in views), strict=True)]

    @torch.no_grad()
    def _targets(self, views: Tensor) -> Tensor:
        """The teacher's projections of both views: (2, B, D)."""
        features = self._features(self.teacher, views, [self.teacher.depth])
        return _by_view(self.teacher_projector(features, self._groups))[0]

    def _losses(self, heads: LayerHeads, h_LND: Tensor, targets: Tensor) -> Tensor:
        """Losses (L,) of projections `h_LND` of both views against targets (2, B, D), both directions together."""
        q = _by_view(heads.predict(h_LND, self._groups))
        first_row = 0
        if self.framework.gathers_targets:
            first_row = distributed.rank() * targets.shape[1]
            # (B, 2, D) gathers along the images; a gradient flows back only where targets carry one.
            gather = distributed.all_gather_with_grad if targets.requires_grad else distributed.all_gather
            targets = gather(targets.transpose(0, 1).contiguous()).transpose(0, 1)
        forth = self.framework.loss(q[:, 0], targets[1], targets[0], first_row)
        back = self.framework.loss(q[:, 1], targets[0], targets[1], first_row)
        return forth + back if self.framework.sum_directions else (forth + back) / 2


def _by_view(x: Tensor) -> Tensor:
    """(L, 2·B, D), view 1 first → (L, 2, B, D)."""
    return x.unflatten(1, (2, -1))
