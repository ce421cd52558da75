"""The engine: one student, one teacher (following, frozen or none), and a list of objectives.

It asks all objectives what they need to see, makes one pass for each network, kind of view and hiding, hands out the
answers, and adds up the losses.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_core.batch import Batch
from ssl_core.errors import InputError
from ssl_core.methods import hidden
from ssl_core.networks.blocks import Blocks
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Hide, Layers, Want
from ssl_core.networks.teacher import Teacher
from ssl_core.objectives.base import Network, Objective, Place, See, Seen, Step
from ssl_core.schema.distill import DistillConfig
from ssl_core.schema.objectives import ObjectiveConfig
from ssl_core.schema.positives import CacheConfig


@dataclass
class StepOutput:
    """What a step's forward pass gives.

    Attributes:
        loss: a scalar.
        parts: its parts by metric name: tensors without gradient, or floats.
        index_features: what stands for each image in the neighbour search: (B, `Method.index_dim`), float32,
            without gradient; None where nothing is searched.
    """

    loss: Tensor
    parts: dict[str, Tensor | float]
    index_features: Tensor | None = None


class Method(nn.Module):
    """A module whose forward pass is one training step's loss.

    Args:
        student: the network that is trained.
        configs: the objectives, in order; their names are different.
        distill: how hidden layers learn too, with every objective that has a loss for any layer.
        cache: what stands for an image in the neighbour search; None where nothing is searched.
        epochs: of the whole run.
        teacher: a frozen one; default: one that follows the student, where an objective wants a teacher.

    Attributes:
        objectives: by name.
        hidden_layers: which of the student's hidden layers learn, ascending.
        norms: their final norms, where each has its own.
    """

    def __init__(
        self,
        student: Encoder,
        configs: Sequence[ObjectiveConfig],
        distill: DistillConfig | None = None,
        cache: CacheConfig | None = None,
        epochs: int = 1,
        teacher: Encoder | None = None,
    ):
        super().__init__()
        kinds: dict[str, type[Objective]] = {config.name: config.load() for config in configs}
        layered = [kinds[config.name] for config in configs if config.layered]
        active = bool(layered) and hidden.is_active(distill, any(kind.has_predictor for kind in layered))
        self.distill, self.cache = distill if active else None, cache
        # Built in this order, so that one seed gives the plain and the distilled run the same weights.
        self.student: Encoder = student
        depth = student.depth
        self.hidden_layers = hidden.select_layers(self.distill.layers, depth) if self.distill else []
        self.objectives = cast("dict[str, Objective]", nn.ModuleDict())
        self.scales: dict[str, float] = {}
        for config in configs:
            layers = [*self.hidden_layers, depth] if config.layered else [depth]
            place = Place(student, layers, self.distill, epochs, teacher)
            self.objectives[config.name] = kinds[config.name](config, place)
            self.scales[config.name] = config.weight
        asked = [see.want for o in self.objectives.values() for see in o.needs() if see.network == "student"]
        student.freeze_what_does_not_reach(reduce(or_, asked))
        self.norms = nn.ModuleDict()
        if self.distill is not None and self.hidden_layers and self.distill.per_layer_norm:
            if not isinstance(student.inside, Blocks):
                raise InputError(f"distill.per_layer_norm: {student.name} has no final norm to copy")
            self.norms.update({str(layer): copy.deepcopy(student.inside.final_norm) for layer in self.hidden_layers})
        self.teacher: Teacher | None = None
        if any(objective.teacher for objective in self.objectives.values()):
            self.teacher = Teacher(student, self._taught, teacher)

    @property
    def encoder(self) -> Encoder:
        """The network that is evaluated and exported: the teacher's, where the first objective says so."""
        first = next(iter(self.objectives.values()))
        return (
            self.teacher.encoder if self.teacher and self.teacher.follows and first.evaluates_teacher else self.student
        )

    @property
    def index_dim(self) -> int:
        """Width of `StepOutput.index_features`."""
        if self.cache is not None and self.cache.feature == "projector":
            return self._embedder.embedding_dim
        return self._encoder_of(self._network).widths[-1]

    def forward(self, batch: Batch, progress: float) -> StepOutput:
        """One training step's loss.

        Args:
            batch: this rank's images, normalised, with the masks of objectives that hide patches.
            progress: steps done of all steps, in [0, 1].
        """
        seen = self.look(batch)
        alpha, weights = self.layer_weights(progress)
        losses: dict[str, Tensor] = {}
        parts: dict[str, Tensor | float] = {}
        features = None
        single = len(self.objectives) == 1
        for name, objective in self.objectives.items():
            step = Step(progress, weights, self.beta_of(objective))
            with torch.no_grad():
                targets = objective.targets(seen[name], step)
                if self.cache is not None and self._embedder is objective:
                    features = self._index_features(self.cache, objective, seen[name], targets)
            each = objective.loss(seen[name], targets, step)
            losses[name], own = self.weigh(objective, each, alpha)
            if self.training:
                with torch.no_grad():
                    objective.after_step(seen[name], targets, step)
            prefix = "loss/" if single else f"loss/{name}/"
            parts |= {f"{prefix}{part}": value for part, value in own.items()}
            if not single:
                parts[f"loss/{name}"] = losses[name].detach()
        scaled = [loss if self.scales[name] == 1.0 else self.scales[name] * loss for name, loss in losses.items()]
        total = sum(scaled[1:], scaled[0])
        if self.distill is not None:
            parts["alpha"] = alpha
        return StepOutput(total, {"loss": total.detach(), **parts}, features)

    def look(self, batch: Batch) -> dict[str, Seen]:
        """All passes that the objectives need; what each objective sees, by its name."""
        views = dict(batch.views)
        for objective in self.objectives.values():
            views |= objective.views(batch)
        batch = replace(batch, views=views)
        asked = {
            name: {see: self._key(name, see) for see in [*objective.needs(), *self._own_needs(objective)]}
            for name, objective in self.objectives.items()
        }
        wants: dict[_Pass, Want] = {}
        for needs in asked.values():
            for see, key in needs.items():
                if see.views in views:
                    wants[key] = wants.get(key, Want()) | see.want
        answers = {key: self._pass(key, want, batch) for key, want in wants.items()}
        heads = dict(self.teacher.heads.items()) if self.teacher else {}
        return {
            name: Seen(
                batch,
                {see: answers[key] for see, key in needs.items() if key in answers},
                heads.get(name),
            )
            for name, needs in asked.items()
        }

    def part_names(self) -> list[str]:
        """What `StepOutput.parts` names: metrics that a run of this method logs."""
        names, single = ["loss"], len(self.objectives) == 1
        for name, objective in self.objectives.items():
            _, parts = self.weigh(objective, torch.zeros_like(objective.weights), 0.0)
            names += [f"loss/{part}" if single else f"loss/{name}/{part}" for part in parts]
            names += [] if single else [f"loss/{name}"]
        return names if self.distill is None else [*names, "alpha"]

    def layer_features(self, images: Tensor) -> list[Tensor]:
        """Features of every layer of the encoder for `images` (B, C, H, W): a list of (B, widths[l])."""
        layers = tuple(range(1, self.encoder.depth + 1))
        norms = self._norms if self.encoder is self.student else {}  # a teacher's only norm is the shared one
        pooled = self.encoder(images, Want(pooled=layers), norms=norms).pooled
        return [pooled[layer] for layer in layers]

    def constant_lr_parameters(self) -> list[nn.Parameter]:
        """Parameters whose learning rate stays at its peak."""
        return [parameter for objective in self.objectives.values() for parameter in objective.constant_lr()]

    def drop_frozen_gradients(self, progress: float) -> None:
        """Forget the gradients of what is frozen at this progress: between backward and step.

        It does take part in the backward pass: every rank must see the same parameters in every step.
        """
        for objective in self.objectives.values():
            for parameter in objective.frozen(progress):
                parameter.grad = None

    def update_teacher(self, progress: float) -> float | None:
        """Move the teacher towards the student; the momentum used, or None where none follows."""
        if self.teacher is None or not self.teacher.follows:
            return None
        momenta = (objective.momentum(progress) for objective in self.objectives.values())
        momentum = next(value for value in momenta if value is not None)
        self.teacher.follow(self.student, self._taught, momentum)
        return momentum

    def _encoder_of(self, network: Network) -> Encoder:
        if network == "student":
            return self.student
        assert self.teacher is not None, "an objective that needs a teacher says so"
        return self.teacher.encoder

    @property
    def _taught(self) -> dict[str, nn.Module]:
        taught = {name: objective.taught for name, objective in self.objectives.items()}
        return {name: module for name, module in taught.items() if module is not None}

    @property
    def _norms(self) -> dict[int, nn.Module]:
        return {int(layer): norm for layer, norm in self.norms.items()}

    @property
    def _embedder(self) -> Objective:
        """The objective that compares views, and so has what stands for an image."""
        return next(objective for objective in self.objectives.values() if objective.config.views > 1)

    @property
    def _network(self) -> Network:
        """Whose features stand for an image."""
        return "teacher" if self.cache and self.cache.source == "teacher" and self.teacher is not None else "student"

    def layer_weights(self, progress: float) -> tuple[float, Tensor | None]:
        """α, and a_l of the layers that learn; None where the last one learns alone."""
        if self.distill is None:
            return 0.0, None
        device = next(self.student.parameters()).device
        return hidden.layer_weights(self.distill, progress, len(self.hidden_layers), device)

    def beta_of(self, objective: Objective) -> float:
        """The weight of its predictors' own loss."""
        return self.distill.beta if self.distill is not None and objective.has_predictor else 0.0

    def weigh(self, objective: Objective, losses: Tensor, alpha: float) -> tuple[Tensor, dict[str, Tensor | float]]:
        """An objective's loss from those of its layers (L,), and its parts by name below `loss/`."""
        if self.distill is not None and objective.config.layered:
            return hidden.weighted(losses, alpha, self.beta_of(objective))
        return (objective.weights * losses).sum(), dict(objective.parts(losses.detach()))

    def _own_needs(self, objective: Objective) -> Iterable[See]:
        """What the neighbour search wants to see, in the same pass as the objective."""
        if self.cache is None or objective is not self._embedder:
            return
        joint = next((see.joint for see in objective.needs() if see.views == "global"), False)
        encoder = self._encoder_of(self._network)
        yield See(self._network, Want(pooled=(encoder.depth,)), joint=joint)

    def _key(self, name: str, see: See) -> "_Pass":
        encoder = self._encoder_of(see.network)
        joint = see.joint or not encoder.has_batch_norm
        return _Pass(see.network, see.views, see.first, name if see.hidden else None, joint)

    def _pass(self, key: "_Pass", want: Want, batch: Batch) -> Layers:
        views = batch.views[key.views][:1] if key.first else batch.views[key.views]
        hide = self.objectives[key.hider].hide(batch) if key.hider else None
        if key.network == "teacher" and self.teacher is not None:
            self.teacher.prepare()
            with torch.no_grad():
                return _each_view(self.teacher.encoder, views, want, hide, {}, key.joint)
        return _each_view(self.student, views, want, hide, self._norms, key.joint)

    def _index_features(self, cache: CacheConfig, objective: Objective, seen: Seen, targets: object) -> Tensor:
        """(B, D), float32: of the first view, or the mean of both where both are of the image itself."""
        network = self._network
        if cache.feature == "projector":
            both = objective.embed(seen, network, targets).float()
        else:
            pooled = seen.of(network).pooled[self._encoder_of(network).depth]
            both = pooled.detach().float().unflatten(0, (2, -1))
        if cache.view == "first":
            return both[0]
        mean, partners = F.normalize(both, dim=-1).mean(dim=0), seen.batch.partners
        if partners is None:
            return mean
        # What a partner looks like must not stand for the image: two that are paired would become one.
        own = (partners == seen.batch.ids).to(mean.device)
        return torch.where(own[:, None], mean, both[0])


@dataclass(frozen=True)
class _Pass:
    """One pass: who looks at which views, what of them some objective hides, and who shares a batch-norm batch."""

    network: Network
    views: str
    first: bool
    hider: str | None
    joint: bool


def _each_view(
    encoder: Encoder, views: Tensor, want: Want, hide: Hide | None, norms: Mapping[int, nn.Module], joint: bool
) -> Layers:
    """Features of views (V, B, C, H, W), in rows one view after another; apart, where batch norm must see them so."""
    if joint or len(views) == 1:
        return encoder(views.flatten(0, 1), want, hide, norms)
    each = [encoder(view, want, hide, norms) for view in views]
    pooled, patches = (
        {layer: torch.cat([getattr(layers, kind)[layer] for layers in each]) for layer in getattr(want, kind)}
        for kind in ("pooled", "patches")
    )
    return Layers(pooled, patches)
