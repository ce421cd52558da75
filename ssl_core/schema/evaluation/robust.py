"""How accuracy holds where images are corrupted."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig
from ssl_core.schema.metric import Metric
from ssl_core.schema.types import MeasuredLayers


class RobustConfig(EvaluatorConfig, implementation="ssl_core.evaluation.robust:Robust"):
    """k-NN and a linear probe, of clean images of train, on corrupted ones of val (as ImageNet-C)."""

    metrics: ClassVar = (
        Metric("robust_knn", "k-NN, corrupted", True, "{:.1%}", True, True, "mean over corruptions and strengths"),
        Metric("robust_knn_blur", "k-NN, blurred", True, "{:.1%}", True, True, "mean over strengths", True),
        Metric("robust_knn_noise", "k-NN, noisy", True, "{:.1%}", True, True, "mean over strengths", True),
        Metric("robust_knn_jpeg", "k-NN, JPEG", True, "{:.1%}", True, True, "mean over qualities", True),
        Metric("robust_knn_contrast", "k-NN, pale", True, "{:.1%}", True, True, "mean over low contrasts", True),
        Metric("robust_linear", "linear, corrupted", True, "{:.1%}", True, True, "the same of a linear probe"),
        Metric("robust_linear_blur", "linear, blurred", True, "{:.1%}", True, True, "mean over strengths", True),
        Metric("robust_linear_noise", "linear, noisy", True, "{:.1%}", True, True, "mean over strengths", True),
        Metric("robust_linear_jpeg", "linear, JPEG", True, "{:.1%}", True, True, "mean over qualities", True),
        Metric("robust_linear_contrast", "linear, pale", True, "{:.1%}", True, True, "mean over low contrasts", True),
    )
    while_training: ClassVar = False

    kind: Literal["robust"] = "robust"
    layers: MeasuredLayers = Field("last", description="which are measured: all, last, {every: n}, or a list")
    k: PositiveInt = 20
    temperature: PositiveFloat = 0.07
    l2: NonNegativeFloat = Field(1e-3, description="of the linear probe: weight of the squared weights")
    seed: NonNegativeInt = Field(0, description="of the noise, the same for all runs so that they can be compared")
    max_train: PositiveInt = Field(50_000, description="size of the bank, drawn from train; bounds memory")
    max_val: PositiveInt = Field(5000, description="images of val, each of which is corrupted in twelve ways")
