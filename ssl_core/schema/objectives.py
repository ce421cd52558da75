"""`framework` and `objectives`: what the network learns from.

A class here names its implementation; the class variables say what it needs, for combinations to be checked before
anything is built.
"""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from ssl_core.errors import InputError
from ssl_core.schema.registry import Registered
from ssl_core.schema.types import (
    OPERATION,
    SCIENCE,
    SHAPES,
    TUNABLE,
    EveryN,
    Fraction,
    LayerChoice,
    OpenFraction,
    PositiveRange,
    Section,
    ShareRange,
)


class ObjectiveConfig(Registered):
    """The base of all objectives."""

    key: ClassVar = SHAPES

    tag: ClassVar[str] = "name"
    group: ClassVar[str] = "strata.objectives"
    known: ClassVar[dict[str, type[Registered]]] = {}

    views: ClassVar[int] = 1
    """Random views of an image that it compares; from two on, the second may be of another image (`positives`)."""
    crops: ClassVar[bool] = False
    """It can learn from local crops too (`views.local_crops`)."""
    layered: ClassVar[bool] = False
    """It has a loss for any layer, so that hidden ones can learn as well (`distill`)."""
    embeds: ClassVar[bool] = False
    """It has projections that can stand for an image in a neighbour search (`positives.cache.feature`)."""
    hides: ClassVar[bool] = False
    """It hides patches of an image (its section has a `mask`), which a ViT alone can do without."""

    if TYPE_CHECKING:
        name: str

    weight: Annotated[PositiveFloat, SCIENCE] = Field(1.0, description="of its loss, beside those of other objectives")


class FrameworkBase(ObjectiveConfig):
    """What the two-view family has in common: views of an image predict one another."""

    views: ClassVar[int] = 2
    crops: ClassVar[bool] = True
    layered: ClassVar[bool] = True
    embeds: ClassVar[bool] = True

    if TYPE_CHECKING:
        momentum: float  # of those with a teacher

    output_dim: PositiveInt = Field(256, description="width of projections and predictions")
    hidden_dim: PositiveInt = Field(4096, description="hidden width of the last layer's projector and all predictors")


class SimCLRConfig(FrameworkBase, implementation="ssl_core.objectives.contrastive:SimCLR"):
    name: Literal["simclr"]
    temperature: Annotated[PositiveFloat, TUNABLE] = 0.2


class BYOLConfig(FrameworkBase, implementation="ssl_core.objectives.cosine:BYOL"):
    name: Literal["byol"]
    momentum: Annotated[Fraction, TUNABLE] = Field(0.996, description="of the EMA teacher; rises to 1 by cosine")


class MoCoV3Config(FrameworkBase, implementation="ssl_core.objectives.contrastive:MoCoV3"):
    name: Literal["mocov3"]
    temperature: Annotated[PositiveFloat, TUNABLE] = 0.2
    momentum: Annotated[Fraction, TUNABLE] = Field(0.996, description="of the EMA teacher; rises to 1 by cosine")


class SimSiamConfig(FrameworkBase, implementation="ssl_core.objectives.cosine:SimSiam"):
    name: Literal["simsiam"]
    output_dim: PositiveInt = Field(2048, description="width of projections and predictions")
    hidden_dim: PositiveInt = Field(2048, description="hidden width of the projector")
    bottleneck_dim: PositiveInt = Field(512, description="hidden width of the predictor")
    projector_layers: Literal[2, 3] = 3
    constant_predictor_lr: Annotated[bool, SCIENCE] = Field(
        True, description="the predictor's learning rate does not decay"
    )


class DINOConfig(FrameworkBase, implementation="ssl_core.objectives.dino:DINO"):
    embeds: ClassVar[bool] = False

    name: Literal["dino"]
    output_dim: PositiveInt = Field(65_536, description="number of prototypes")
    hidden_dim: PositiveInt = Field(2048, description="hidden width of the head")
    bottleneck_dim: PositiveInt = Field(256, description="width that is L2-normalised before the prototypes")
    head_norm: bool = Field(False, description="batch norm in the head; steadier where there are few images")
    temperature: Annotated[PositiveFloat, TUNABLE] = Field(0.1, description="of the student")
    teacher_temperature: Annotated[PositiveFloat, SCIENCE] = Field(
        0.04, description="of the teacher, after its warm-up"
    )
    warmup_teacher_temperature: Annotated[PositiveFloat, SCIENCE] = Field(0.04, description="where the warm-up starts")
    warmup_teacher_epochs: Annotated[NonNegativeInt, SCIENCE] = Field(0, description="linear, epoch by epoch")
    center_momentum: Annotated[Fraction, SCIENCE] = 0.9
    freeze_last_layer: Annotated[NonNegativeInt, SCIENCE] = Field(
        1, description="epochs in which the prototypes stay as they are"
    )
    momentum: Annotated[Fraction, TUNABLE] = Field(0.996, description="of the EMA teacher; rises to 1 by cosine")


class RandomMaskConfig(Section):
    """Patches hidden one by one, as MAE hides them."""

    kind: Literal["random"] = "random"
    share: OpenFraction = Field(0.75, description="of the patches, hidden")

    def hidden(self, grid: tuple[int, int]) -> int:
        """How many of `grid` patches (rows, columns) are hidden."""
        return round(self.share * grid[0] * grid[1])

    def check(self, grid: tuple[int, int], key: str) -> None:
        """Whether masks of `grid` patches (rows, columns) can be drawn.

        Args:
            key: where this section stands in the configuration.

        Raises:
            InputError: they would hide nothing, or everything.
        """
        rows, columns = grid
        hidden = self.hidden(grid)
        if not 0 < hidden < rows * columns:
            raise InputError(
                f"{key}.share: {self.share:g} of {rows} × {columns} patches hides {hidden} of {rows * columns}; some "
                "must be hidden and some seen"
            )


class BlockMaskConfig(Section):
    """Blocks of patches, as I-JEPA hides them."""

    kind: Literal["blocks"] = "blocks"
    targets: PositiveInt = Field(4, description="blocks to predict, which may overlap")
    target_scale: ShareRange = Field((0.15, 0.2), description="share of the image that one takes")
    target_aspect: PositiveRange = Field((0.75, 1.5), description="its height to its width")
    context_scale: ShareRange = Field((0.85, 1.0), description="share of the block that is seen, before targets go")
    least_context: OpenFraction = Field(0.05, description="share of the image that is seen at least, where it can be")

    def check(self, grid: tuple[int, int], key: str) -> None:
        """Whether masks of `grid` patches (rows, columns) can be drawn.

        Args:
            key: where this section stands in the configuration.

        Raises:
            InputError: they could hide everything.
        """
        # The aspects at which the largest block is as high as the image, and those at which it is as wide.
        rows, columns = grid
        area, (lowest, highest) = self.target_scale[1] * rows * columns, self.target_aspect
        if max(lowest, (rows - 0.5) ** 2 / area) <= min(highest, area / (columns - 0.5) ** 2):
            raise InputError(
                f"{key}.target_scale: a block of {self.target_scale[1]:g} of the image can hide all of "
                f"{rows} × {columns} patches; use a smaller scale, or smaller patches"
            )


class PredictorConfig(Section):
    key: ClassVar = SHAPES

    dim: PositiveInt = 384
    depth: PositiveInt = 6
    heads: PositiveInt = 12

    @model_validator(mode="after")
    def _divides(self) -> "PredictorConfig":
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads}), and of 4")
        return self


class MaskedBase(ObjectiveConfig):
    """What the masked family has in common: the student sees a part of an image, and the rest is predicted."""

    hides: ClassVar[bool] = True

    mask: Annotated[BlockMaskConfig | RandomMaskConfig, Field(discriminator="kind")] = Field(
        default_factory=BlockMaskConfig
    )
    predictor: PredictorConfig = Field(default_factory=PredictorConfig)
    picture_every: Annotated[PositiveInt, OPERATION] = Field(
        10, description="epochs between two pictures of masks and errors"
    )


class LatentBase(MaskedBase):
    momentum: Annotated[Fraction, TUNABLE] = Field(0.996, description="of the EMA teacher, at the beginning")
    momentum_end: Annotated[Fraction, SCIENCE] = Field(1.0, description="and at the end; linear between")


class IJEPAConfig(LatentBase, implementation="ssl_core.objectives.patches:IJEPA"):
    name: Literal["ijepa"]


class BootlegConfig(LatentBase, implementation="ssl_core.objectives.patches:Bootleg"):
    name: Literal["bootleg"]
    targets: LayerChoice = Field(
        EveryN(every=4),
        description="teacher layers: all, {every: n} from the last back, or a list; the last alone is ijepa",
    )
    target_weights: Annotated[list[PositiveFloat], Field(min_length=1)] | None = Field(
        None, description="of each target layer's loss, first to last; only ratios count. default: all the same"
    )


class MAEConfig(MaskedBase, implementation="ssl_core.objectives.pixels:MAE"):
    name: Literal["mae"]
    mask: Annotated[BlockMaskConfig | RandomMaskConfig, Field(discriminator="kind")] = Field(
        default_factory=RandomMaskConfig
    )
    predictor: PredictorConfig = Field(default_factory=lambda: PredictorConfig(dim=512, depth=8, heads=16))
    norm_pixels: Annotated[bool, SCIENCE] = Field(True, description="each patch by its own mean and deviation")
