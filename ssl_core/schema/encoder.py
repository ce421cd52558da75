"""`backbone`: the network that is trained."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator

from ssl_core.schema.data import scheme_of
from ssl_core.schema.types import SCIENCE, SHAPES, Pixels, Section


class BackboneConfig(Section):
    key: ClassVar = SHAPES

    name: str = Field("vit_small_patch16_224", description="any timm model that gives per-layer features")
    image_size: Pixels = 224
    patch_size: PositiveInt | None = Field(None, description="ViT only; default: the model's own")
    pool: Literal["token", "mean"] = Field("token", description="ViT only: class token, or mean of the patch tokens")
    weights: Annotated[Annotated[str, Field(min_length=1)] | None, SCIENCE] = Field(
        None, description="start from these: a .safetensors or .pth file, a run's folder, or timm:NAME, which downloads"
    )
    freeze_patch_embed: bool = Field(False, description="MoCo v3: a frozen random patch projection")
    position: Literal["learned", "sincos"] = Field("learned", description="sincos: fixed 2-D sin-cos positions")
    kwargs: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = Field(
        default_factory=dict, description="passed to timm.create_model; in_chans: 1 trains on grey images"
    )

    @field_validator("kwargs")
    @classmethod
    def _fits_images(cls, value: dict[str, Any]) -> dict[str, Any]:
        channels = value.get("in_chans", 3)
        if type(channels) is not int or channels not in (1, 3):
            raise ValueError(f"in_chans: images are read as grey or as RGB; expected 1 or 3 (given: {channels!r})")
        if "img_size" in value:
            raise ValueError("img_size: set backbone.image_size")
        return value

    @property
    def paths(self) -> list[str]:
        """The file or folder of its weights, if it starts from such."""
        return [self.weights] if self.weights is not None and scheme_of(self.weights) is None else []

    @property
    def channels(self) -> int:
        return self.kwargs.get("in_chans", 3)
