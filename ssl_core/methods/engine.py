"""The engine: one student, one teacher (following, frozen or none), and a list of objectives.

It asks all objectives what they need to see, makes one pass for each network, kind of view and hiding, hands out the
answers, and adds up the losses.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import cast

import torch
from torch import Tensor, nn

from ssl_core.batch import Batch
from ssl_core.errors import InputError
from ssl_core.methods import hidden
from ssl_core.methods.index_features import IndexFeatures
from ssl_core.methods.passes import Networks, look
from ssl_core.networks.blocks import Blocks
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Layers, Want
from ssl_core.networks.teacher import Teacher
from ssl_core.objectives.base import Objective, Place, Seen, Step
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
        keys: where the sections of `configs` stand in a configuration, for errors; default: in a list of objectives.

    Raises:
        InputError: an objective's settings do not fit the student, or those of another objective.

    Attributes:
        objectives: by name.
        hidden_layers: which of the student's hidden layers learn, ascending.
        norms: their final norms, where each has its own.
        weighting: how the losses of layers add up.
    """

    def __init__(
        self,
        student: Encoder,
        configs: Sequence[ObjectiveConfig],
        distill: DistillConfig | None = None,
        cache: CacheConfig | None = None,
        epochs: int = 1,
        teacher: Encoder | None = None,
        keys: Sequence[str] | None = None,
    ):
        super().__init__()
        kinds: dict[str, type[Objective]] = {config.name: config.load() for config in configs}
        layered = [kinds[config.name] for config in configs if config.layered]
        active = bool(layered) and hidden.is_active(distill, any(kind.has_predictor for kind in layered))
        self.distill = distill if active else None
        self.hidden_layers = hidden.select_layers(self.distill.layers, student.depth) if self.distill else []
        self.weighting = hidden.Weighting(self.distill, len(self.hidden_layers))
        self.scales: dict[str, float] = {config.name: config.weight for config in configs}
        # Built in this order, so that one seed gives the plain and the distilled run the same weights.
        self.student: Encoder = student
        self.objectives = cast("dict[str, Objective]", nn.ModuleDict())
        keys = keys or [f"objectives.{number}" for number in range(len(configs))]
        for config, key in zip(configs, keys, strict=True):
            layers = [*(self.hidden_layers if config.layered else ()), student.depth]
            place = Place(student, layers, self.distill, epochs, teacher, key)
            self.objectives[config.name] = kinds[config.name](config, place)
        asked = [see.want for o in self.objectives.values() for see in o.needs() if see.network == "student"]
        student.freeze_what_does_not_reach(reduce(or_, asked))
        self.norms = _own_norms(student, self.hidden_layers, self.distill)
        self.teacher: Teacher | None = None
        if any(objective.teacher for objective in self.objectives.values()):
            self.teacher = Teacher(student, self._taught, teacher)
            if self.teacher.follows:
                _check_momentum(dict(zip(keys, self.objectives.values(), strict=True)))
        self.networks = Networks(student, self.teacher, self.norms)
        self.index: IndexFeatures | None = None
        if cache is not None:
            compares = next(x for x in self.objectives.values() if x.config.views > 1)
            self.index = IndexFeatures(cache, compares, self.networks)

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
        return self.student.widths[-1] if self.index is None else self.index.dim

    def forward(self, batch: Batch, progress: float) -> StepOutput:
        """One training step's loss.

        Args:
            batch: this rank's images, normalised, with the masks of objectives that hide patches.
            progress: steps done of all steps, in [0, 1].
        """
        seen = self.look(batch)
        alpha, weights = self.weighting.at(progress, next(self.student.parameters()).device)
        losses: dict[str, Tensor] = {}
        parts: dict[str, Tensor | float] = {}
        features = None
        for name, objective in self.objectives.items():
            step = Step(progress, weights, self.weighting.beta_of(objective))
            with torch.no_grad():
                targets = objective.targets(seen[name], step)
                if self.index is not None and self.index.objective is objective:
                    features = self.index.of(seen[name], targets)
            each = objective.loss(seen[name], targets, step)
            losses[name], own = self.weighting.weigh(objective, each, alpha)
            if self.training:
                with torch.no_grad():
                    objective.after_step(seen[name], targets, step)
            parts |= self._named(name, losses[name].detach(), own)
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
        needs = {name: list(objective.needs()) for name, objective in self.objectives.items()}
        if self.index is not None:
            needs[self.index.objective.config.name].append(self.index.needs())
        answers = look(self.networks, self.objectives, needs, batch)
        heads = dict(self.teacher.heads.items()) if self.teacher else {}
        return {name: Seen(batch, answers[name], heads.get(name)) for name in self.objectives}

    def part_names(self) -> list[str]:
        """What `StepOutput.parts` names: metrics that a run of this method logs."""
        names = ["loss"]
        for name, objective in self.objectives.items():
            loss, own = self.weighting.weigh(objective, torch.zeros_like(objective.weights), 0.0)
            names += self._named(name, loss, own)
        return names if self.distill is None else [*names, "alpha"]

    def features(self, images: Tensor, want: Want) -> Layers:
        """What is wanted of the encoder's layers, for `images` (B, C, H, W): hidden layers with norms of their own."""
        norms = self.networks.own_norms if self.encoder is self.student else {}
        return self.encoder(images, want, norms=norms)

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

    @property
    def _taught(self) -> dict[str, nn.Module]:
        taught = {name: objective.taught for name, objective in self.objectives.items()}
        return {name: module for name, module in taught.items() if module is not None}

    def _named(self, name: str, loss: Tensor, own: Mapping[str, Tensor | float]) -> dict[str, Tensor | float]:
        """An objective's loss and its parts by metric name; where it is the only one, its loss is the run's."""
        if len(self.objectives) == 1:
            return {f"loss/{part}": value for part, value in own.items()}
        return {**{f"loss/{name}/{part}": value for part, value in own.items()}, f"loss/{name}": loss}


def _check_momentum(objectives: Mapping[str, Objective]) -> None:
    """Whether all that have a momentum, by key, want the teacher to begin and to end alike: there is one.

    Raises:
        InputError: which two do not.
    """
    ends = {key: (o.momentum(0.0), o.momentum(1.0)) for key, o in objectives.items() if o.momentum(0.0) is not None}
    first, *others = ends
    for key in others:
        if ends[key] != ends[first]:
            wanted = ["{:g} to {:g}".format(*ends[each]) for each in (key, first)]
            raise InputError(
                f"{key}.momentum: the run has one teacher, whose momentum would go from {wanted[0]} here and from "
                f"{wanted[1]} by {first}.momentum; give both the same"
            )


def _own_norms(student: Encoder, layers: Sequence[int], distill: DistillConfig | None) -> nn.ModuleDict:
    """A final norm for each hidden layer that starts like the shared one, where `distill` wants them."""
    if distill is None or not layers or not distill.per_layer_norm:
        return nn.ModuleDict()
    if not isinstance(student.inside, Blocks):
        raise InputError(f"distill.per_layer_norm: {student.name} has no final norm to copy")
    return nn.ModuleDict({str(layer): copy.deepcopy(student.inside.final_norm) for layer in layers})
