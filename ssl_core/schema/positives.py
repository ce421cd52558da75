"""`positives`: which image the second view is of."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from ssl_core.schema.types import OPERATION, TUNABLE, Fraction, Section


class CacheConfig(Section):
    """What stands for an image where neighbours are searched."""

    source: Literal["teacher", "student"] = Field("teacher", description="student where there is no EMA teacher")
    feature: Literal["backbone", "projector"] = "backbone"
    view: Literal["first", "mean"] = Field("first", description="view 1, or the mean of the image's own views")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of the cache on a GPU")


class PositivesConfig(Section):
    """Which image the second view is of: the image itself, or a neighbour (AdaSim, Lebailly et al., 2023)."""

    kind: Literal["augment", "nearest", "adasim", "labels"] = Field(
        "augment", description="the image itself, its nearest neighbour, one drawn by AdaSim, one of its class"
    )
    tau: Annotated[NonNegativeFloat, TUNABLE] = Field(0.2, description="AdaSim: temperature of the draw; 0 is augment")
    tau_scale: Literal["absolute", "spread"] = Field(
        "absolute", description="spread: tau is in units of positives/spread, as similarities crowd together"
    )
    window: PositiveInt = Field(10, description="AdaSim: epochs whose neighbours count; none are drawn before")
    top_k: PositiveInt = Field(3, description="AdaSim: neighbours of an image, itself among them")
    support: Literal["topk", "union"] = Field(
        "topk", description="AdaSim: draw from the top_k largest sums (published code), or all (Eq. 11)"
    )
    unvisited: Literal["skip", "zeros"] = Field(
        "skip", description="images not yet seen: left out, or zero rows (published code)"
    )
    stale: Literal["drop", "repeat"] = Field(
        "drop", description="images not seen in an epoch add nothing to it, or their last neighbours (published code)"
    )
    search: Literal["exact", "ivf"] = Field("exact", description="ivf: approximate, for millions of images")
    probes: PositiveInt = Field(32, description="ivf: cells that a query looks into")
    label_share: Fraction = Field(
        0.5, description="labels: final probability of a partner of the same class; rises linearly from 0"
    )
    picture_every: Annotated[PositiveInt, OPERATION] = Field(
        10, description="epochs between two pictures of neighbours"
    )
    cache: CacheConfig = Field(default_factory=CacheConfig)

    @property
    def searches(self) -> bool:
        """Whether neighbours are searched for at all."""
        return self.kind in ("nearest", "adasim")
