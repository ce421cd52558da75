"""`optim`: how, and for how long, it is trained."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ssl_core.schema.types import SCIENCE, TUNABLE, Form, Fraction, OpenFraction, Section

BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimConfig(Section):
    name: Literal["adamw", "sgd", "lars"] = "adamw"
    epochs: PositiveInt = 100
    batch_size: Annotated[int, Field(gt=0, le=10**7), Form("a whole number from 1 to 10,000,000")] = Field(
        1024, description="images per optimizer step, over all workers and accumulation"
    )
    lr: Annotated[NonNegativeFloat, TUNABLE] = Field(
        1.5e-4, description="for a batch of 256; scaled linearly with batch_size"
    )
    min_lr: Annotated[NonNegativeFloat, TUNABLE] = Field(0.0, description="where the cosine ends; scaled likewise")
    warmup_epochs: NonNegativeFloat = 10
    weight_decay: Annotated[NonNegativeFloat, TUNABLE] = 0.1
    weight_decay_end: Annotated[NonNegativeFloat | None, TUNABLE] = Field(
        None, description="cosine to this; default: constant"
    )
    betas: tuple[BelowOne, BelowOne] = Field((0.9, 0.999), description="AdamW")
    momentum: Fraction = Field(0.9, description="SGD and LARS")
    layer_decay: Annotated[OpenFraction | None, SCIENCE] = Field(
        None, description="each layer's rate is that of the next one times this, heads at 1 (BEiT, MAE); default: off"
    )
    warm_heads: Annotated[NonNegativeFloat, SCIENCE] = Field(
        0.0, description="epochs in which heads and predictors learn alone: random ones would spoil good weights"
    )
    clip_grad: Annotated[PositiveFloat | None, TUNABLE] = Field(None, description="largest norm of the whole gradient")
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: PositiveInt = Field(1, description="micro-batches per step; negatives come from one micro-batch")

    @model_validator(mode="after")
    def _consistent(self) -> "OptimConfig":
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs:g}) must be less than epochs ({self.epochs}); "
                "warmup_epochs=0 does without"
            )
        if self.warm_heads >= self.epochs:
            raise ValueError(f"warm_heads ({self.warm_heads:g}) must be less than epochs ({self.epochs})")
        return self
