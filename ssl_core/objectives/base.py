"""What an objective is: it says what it needs to see, what it takes for targets, and its loss for each layer.

One engine (`ssl_core.methods.engine`) asks all objectives of a run what they need, makes one pass for each network,
kind of view and hiding, and hands out the answers. A new objective is one file here (or in any package), with its
section of the schema; `docs/extending.md` writes one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from ssl_core.batch import Batch
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Hide, Layers, Want
from ssl_core.schema.distill import DistillConfig
from ssl_core.schema.objectives import ObjectiveConfig

Network = Literal["student", "teacher"]


@dataclass(frozen=True)
class See:
    """A pass that an objective needs.

    Attributes:
        network: who looks.
        want: at which layers.
        views: at which kind of view: `global`, `local`, or what the objective's own `views` makes. A kind that a batch
            lacks is passed over.
        first: at the first view of that kind alone.
        hidden: not at what the objective hides (`Objective.hide`).
        joint: views share one batch-norm batch; otherwise each has its own, where the network has batch norm.
    """

    network: Network
    want: Want
    views: str = "global"
    first: bool = False
    hidden: bool = False
    joint: bool = False


@dataclass(frozen=True)
class Seen:
    """What an objective gets to see: the answers to its needs.

    Attributes:
        batch: images as the networks got them.
        answers: what its passes gave; rows are those of the views one after another, (V·B, …).
        head: the teacher's copy of `Objective.taught`.
    """

    batch: Batch
    answers: Mapping[See, Layers]
    head: nn.Module | None = None

    def taught(self, features: list[Tensor], groups: int) -> Tensor:
        """What the teacher's copy of `Objective.taught` makes of features (N, D)."""
        assert self.head is not None
        return self.head(features, groups)

    def of(self, network: Network, views: str = "global", hidden: bool | None = None) -> Layers:
        """The answer for a network and kind of view; `hidden` tells a pass with hidden patches from a whole one."""
        return next(
            layers
            for see, layers in self.answers.items()
            if (see.network, see.views) == (network, views) and hidden in (None, see.hidden)
        )

    def has(self, network: Network, views: str) -> bool:
        return any((see.network, see.views) == (network, views) for see in self.answers)


@dataclass(frozen=True)
class Place:
    """Where an objective is built: what it may know of the run around it.

    Attributes:
        encoder: the student; an objective reads its shape, and does not keep it.
        layers: which of its layers learn, ascending, the last one always: several with `distill` alone.
        distill: how hidden layers learn, where they do.
        epochs: of the whole run.
        teacher: another network than the student, where the teacher is one.
        key: where the objective's section stands in the configuration, for errors.
    """

    encoder: Encoder
    layers: list[int]
    distill: DistillConfig | None = None
    epochs: int = 1
    teacher: Encoder | None = None
    key: str = "framework"

    @property
    def teacher_encoder(self) -> Encoder:
        """A network of the teacher's shape."""
        return self.teacher or self.encoder


@dataclass(frozen=True)
class Step:
    """Where a run stands, and how its layers are weighted.

    Attributes:
        progress: steps done of all steps, in [0, 1].
        weights: (L,) a_l of the layers that learn, the last one's 1.
        beta: weight of the predictors' own loss (SDSSL Eq. 6).
    """

    progress: float
    weights: Tensor | None = None
    beta: float = 0.0


Config = TypeVar("Config", bound=ObjectiveConfig)


class Objective(nn.Module, Generic[Config]):
    """A loss with what belongs to it: heads, centres, queues.

    Attributes:
        config: its section.
        layers: what each of the losses that `loss` returns is of, first to last.
        weights: (L,) how they add up, where `distill` does not say so.
    """

    teacher: ClassVar[bool] = False
    """Targets come from a teacher, which follows the student."""
    evaluates_teacher: ClassVar[bool] = False
    """The teacher is the encoder that is evaluated and exported, where this objective is the first of its run."""
    has_predictor: ClassVar[bool] = False
    """It has predictors, whose own loss `distill.beta` weights (SDSSL Eq. 6)."""

    def __init__(self, config: Config, place: Place):
        super().__init__()
        self.config, self.epochs = config, place.epochs
        self.layers = list(place.layers)
        self.weights: Tensor
        self.register_buffer("weights", torch.full((len(self.layers),), 1.0 / len(self.layers)), persistent=False)

    def needs(self) -> list[See]:
        """The passes that it needs."""
        raise NotImplementedError

    def views(self, batch: Batch) -> Mapping[str, Tensor]:
        """Further kinds of views, made on the device from those of the batch: (V, B, C, H, W) each."""
        return {}

    def hide(self, batch: Batch) -> Hide | None:
        """What its hidden passes are not to see."""
        return None

    def targets(self, seen: Seen, step: Step) -> Any:
        """What its loss compares with; computed once a step, without gradient, also for queues and centres."""
        return None

    def loss(self, seen: Seen, targets: Any, step: Step) -> Tensor:
        """(L,) losses, one for each of `layers`."""
        raise NotImplementedError

    def after_step(self, seen: Seen, targets: Any, step: Step) -> None:
        """What changes once the loss is known, and the same on every rank: queues, centres. While training alone."""

    def momentum(self, progress: float) -> float | None:
        """Of the teacher, at this progress. Of several objectives the first that has one counts, and all must begin and
        end alike."""
        return None

    @property
    def taught(self) -> nn.Module | None:
        """What the teacher has a copy of beside the encoder: `Seen.head`."""
        return None

    def embed(self, seen: Seen, network: Network, targets: Any) -> Tensor:
        """What stands for the images of the first two views in a neighbour search, other than features: (2, B, E)."""
        raise NotImplementedError

    @property
    def embedding_dim(self) -> int:
        """The width E of that."""
        raise NotImplementedError

    def parts(self, losses: Tensor) -> dict[str, Tensor]:
        """What is logged of the losses, by name below `loss/`."""
        return {"last": losses[-1]}

    def frozen(self, progress: float) -> Iterable[nn.Parameter]:
        """Parameters that do not move at this progress, though they take part in the backward pass."""
        return ()

    def constant_lr(self) -> Iterable[nn.Parameter]:
        """Parameters whose learning rate stays at its peak."""
        return ()
