"""Passes: what several objectives need to see becomes as few looks of student and teacher as will do."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssl_core.batch import Batch
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Hide, Layers, Want
from ssl_core.networks.teacher import Teacher
from ssl_core.objectives.base import Network, Objective, See


@dataclass(frozen=True)
class Networks:
    """Who can look.

    Attributes:
        norms: those of the student's hidden layers that have one of their own; a teacher's only norm is the shared one.
    """

    student: Encoder
    teacher: Teacher | None
    norms: nn.ModuleDict

    @property
    def own_norms(self) -> dict[int, nn.Module]:
        """The same by the number of the layer."""
        return {int(layer): norm for layer, norm in self.norms.items()}

    def encoder(self, network: Network) -> Encoder:
        if network == "student":
            return self.student
        assert self.teacher is not None, "an objective that needs a teacher says so"
        return self.teacher.encoder


@dataclass(frozen=True)
class _Pass:
    """One pass: who looks at which views, what of them some objective hides, and who shares a batch-norm batch."""

    network: Network
    views: str
    first: bool
    hider: str | None
    joint: bool


def look(
    networks: Networks, objectives: Mapping[str, Objective], needs: Mapping[str, Iterable[See]], batch: Batch
) -> dict[str, dict[See, Layers]]:
    """Answers to the needs of each objective, by its name: a pass for each network, kind of view and hiding.

    Kinds of view that the batch lacks have no answer.
    """
    asked = {
        name: {see: _pass_of(networks, name, see) for see in sees if see.views in batch.views}
        for name, sees in needs.items()
    }
    wants: dict[_Pass, Want] = {}
    for passes in asked.values():
        for see, one in passes.items():
            wants[one] = wants.get(one, Want()) | see.want
    answers: dict[_Pass, Layers] = {}
    for one, want in wants.items():
        hide = objectives[one.hider].hide(batch) if one.hider else None
        answers[one] = _answer(networks, one, want, batch, hide)
    return {name: {see: answers[one] for see, one in passes.items()} for name, passes in asked.items()}


def _pass_of(networks: Networks, objective: str, see: See) -> _Pass:
    joint = see.joint or not networks.encoder(see.network).has_batch_norm
    return _Pass(see.network, see.views, see.first, objective if see.hidden else None, joint)


def _answer(networks: Networks, one: _Pass, want: Want, batch: Batch, hide: Hide | None) -> Layers:
    views = batch.views[one.views][:1] if one.first else batch.views[one.views]
    if one.network == "teacher" and networks.teacher is not None:
        networks.teacher.prepare()
        with torch.no_grad():
            return _each_view(networks.teacher.encoder, views, want, hide, {}, one.joint)
    return _each_view(networks.student, views, want, hide, networks.own_norms, one.joint)


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
