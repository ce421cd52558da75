"""`distill`: hidden layers that learn from the last (SDSSL)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from ssl_core.schema.types import SCIENCE, SHAPES, TUNABLE, LayerChoice, Section


class DistillConfig(Section):
    """Hidden self-distillation (SDSSL): hidden layers learn from the last. alpha = beta = 0 is off."""

    key: ClassVar = SHAPES

    alpha: Annotated[NonNegativeFloat, TUNABLE] = Field(
        1.0, description="final weight of the hidden layers' loss (Eq. 4)"
    )
    beta: Annotated[NonNegativeFloat, TUNABLE] = Field(
        1.0, description="weight of the predictors' own loss (Eq. 6); needs a predictor"
    )
    layers: LayerChoice = Field(
        "all", description="all, {every: n} counted back from the last, or a list such as [1, 4, 8]"
    )
    anneal: Annotated[Literal["cosine", "none"], SCIENCE] = Field(
        "cosine", description="how alpha rises from 0 over the run"
    )
    projector_layers: Literal[0, 2, 3] = Field(3, description="depth of the hidden layers' projectors (Table 6)")
    hidden_dim: PositiveInt | None = Field(
        None, description="hidden width of those projectors; default: half of the framework's"
    )
    per_layer_norm: bool = Field(False, description="each hidden layer its own final norm instead of the shared one")
