"""`views`: what is made of an image before the network sees it."""

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, PositiveInt, field_validator

from ssl_core.schema.types import (
    SHAPES,
    TUNABLE,
    Form,
    Fraction,
    PerView,
    Pixels,
    RangePerView,
    Section,
    ShareRange,
    rising,
)

Strength = Annotated[float, Field(ge=0.0, le=100.0)]
Sigma = Annotated[float, Field(ge=0.0, le=1000.0)]
Sigmas = Annotated[tuple[Sigma, Sigma], AfterValidator(rising), Form("[least, most], from 0 to 1000")]


class LocalCropsConfig(Section):
    """Multi-crop: further small views of the image that predict both targets (SwAV, DINO)."""

    key: ClassVar = SHAPES

    count: PositiveInt = 8
    size: Pixels = Field(96, description="pixels")
    scale: ShareRange = Field((0.05, 0.4), description="area of the random resized crop")
    blur: Fraction = 0.5


class ViewsConfig(Section):
    """Two random views of an image, as MoCo v3 and SDSSL publish them. One value serves both views; a pair, each."""

    key: ClassVar = TUNABLE

    crop_scale: Annotated[RangePerView, Form("[least, most] of the area, or one such pair for each view")] = Field(
        ((0.08, 1.0), (0.08, 1.0)), description="area of the random resized crop"
    )
    jitter: PerView = Field((0.8, 0.8), description="probability of colour jitter")
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.2
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    grey: PerView = Field((0.2, 0.2), description="probability of dropping the colours")
    blur: PerView = Field((1.0, 0.1), description="probability of Gaussian blur")
    blur_sigma: Sigmas = Field((0.1, 2.0), description="pixels, at 224 px; scaled with the image size")
    solarize: PerView = Field((0.0, 0.2), description="probability of inverting bright pixels")
    flip: PerView = Field((0.5, 0.5), description="probability of a horizontal flip")
    rotation: Annotated[float, Field(ge=0.0, le=360.0)] = Field(0.0, description="degrees, uniform in ±rotation")
    local_crops: Annotated[LocalCropsConfig | None, SHAPES] = Field(None, description="multi-crop; default: none")

    @field_validator("crop_scale")
    @classmethod
    def _ordered(cls, value: Any) -> Any:
        if any(low > high or high > 1.0 or low <= 0.0 for low, high in value):
            raise ValueError("expected [least, most] of the area, 0 < least ≤ most ≤ 1")
        return value
