"""Probes that are trained by gradient on frozen features, as the papers do it."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig
from ssl_core.schema.metric import Metric
from ssl_core.schema.types import MeasuredLayers

Rates = Annotated[list[PositiveFloat], Field(min_length=1)]


class TrainedProbeConfig(EvaluatorConfig):
    """What they have in common: how long, how many images, which rates are tried."""

    while_training: ClassVar = False
    usual_epochs: ClassVar[tuple[int, int]]
    """Of fewer than 50,000 images, and of as many or more."""

    layers: MeasuredLayers = Field("last", description="which are measured: all, last, {every: n}, or a list")
    epochs: PositiveInt | None = Field(None, description="passes over train; default: fewer of under 50,000 images")
    batch: PositiveInt = Field(1024, description="at most; of few images a sixteenth of them, and 16 at least")
    seed: NonNegativeInt = Field(0, description="of crops, order and first weights, the same for all runs")
    max_train: PositiveInt | None = Field(None, description="images of train; default: all")
    max_val: PositiveInt | None = Field(None, description="images of val that are classified; default: all")
    rates: Rates


class LinearSgdConfig(TrainedProbeConfig, implementation="ssl_core.evaluation.linear_sgd:LinearSgd"):
    """The papers' linear probe: SGD on crops and flips, the best of a grid trained in one pass (DINOv2)."""

    metrics: ClassVar = (
        Metric("linear_sgd", "linear (SGD)", True, "{:.1%}", True, True, "share of val that the chosen probe knows"),
        Metric("linear_sgd_per_class", "linear (SGD), classes", True, "{:.1%}", True, True, "mean over classes", True),
        Metric("linear_sgd_rate", "its rate", None, "{:.0e}", True, True, "learning rate that was chosen", True),
    )
    usual_epochs: ClassVar = (30, 100)

    kind: Literal["linear_sgd"] = "linear_sgd"
    rates: Rates = Field(
        [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1],
        description="learning rates that are tried, for a batch of 256",
    )
    blocks: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        [1, 4], description="of how many last layers features are joined; each is tried"
    )


class AttentiveConfig(TrainedProbeConfig, implementation="ssl_core.evaluation.attentive:Attentive"):
    """A learned query attends to frozen patch tokens, and a linear map classifies what it finds (I-JEPA, CAPI)."""

    metrics: ClassVar = (
        Metric("attentive", "attentive probe", True, "{:.1%}", True, True, "share of val that the chosen probe knows"),
        Metric("attentive_per_class", "attentive, classes", True, "{:.1%}", True, True, "mean over classes", True),
        Metric("attentive_rate", "its rate", None, "{:.0e}", True, True, "learning rate that was chosen", True),
    )
    usual_epochs: ClassVar = (20, 20)

    kind: Literal["attentive"] = "attentive"
    rates: Rates = Field([1e-4, 3e-4, 1e-3, 3e-3], description="learning rates that are tried (AdamW)")
    weight_decay: NonNegativeFloat = 0.01
