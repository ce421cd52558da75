"""The sections of the objectives: keys, defaults, what each needs. Imports nothing of Strata but its schema."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from ssl_core.schema.evaluation import EvaluatorConfig
from ssl_core.schema.metric import Metric
from ssl_core.schema.objectives import FrameworkBase, ObjectiveConfig, RandomMaskConfig
from ssl_core.schema.types import Fraction


class BarlowLikeConfig(ObjectiveConfig, implementation="strata_example.barlow_like:BarlowLike"):
    """Decorrelation of two views, as Barlow Twins has it."""

    views: ClassVar[int] = 2
    layered: ClassVar[bool] = True

    name: Literal["barlow-like"]
    output_dim: PositiveInt = Field(64, description="width of the projections")
    off_diagonal: PositiveFloat = Field(0.005, description="weight of the redundancy term")


class SwAVLikeConfig(FrameworkBase, implementation="strata_example.swav_like:SwAVLike"):
    """Assignments to prototypes that other views predict, as SwAV has it."""

    name: Literal["swav-like"]
    output_dim: PositiveInt = Field(32, description="number of prototypes")
    hidden_dim: PositiveInt = 64
    temperature: PositiveFloat = 0.1


class IBOTLikeConfig(ObjectiveConfig, implementation="strata_example.ibot_like:IBOTLike"):
    """Masked patches that learn the teacher's distribution over prototypes, as iBOT has it."""

    hides: ClassVar[bool] = True

    name: Literal["ibot-like"]
    output_dim: PositiveInt = Field(32, description="number of prototypes")
    mask: RandomMaskConfig = Field(default_factory=lambda: RandomMaskConfig(share=0.4))
    momentum: Fraction = Field(0.996, description="of the EMA teacher; rises to 1 by cosine")


class NormsConfig(EvaluatorConfig, implementation="strata_example.norms:Norms"):
    """How long features are."""

    metrics: ClassVar = (Metric("length", "length of features", None, "{:.2f}", per_layer=True),)

    kind: Literal["norms"] = "norms"
    max_images: PositiveInt = 256
