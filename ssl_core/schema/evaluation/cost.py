"""What an encoder costs that is cut after a layer."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig
from ssl_core.schema.metric import Metric


class CostConfig(EvaluatorConfig, implementation="ssl_core.evaluation.cost:Cost"):
    """Size and speed of the encoder cut after each layer, on the machine that measures; labels play no part."""

    metrics: ClassVar = (
        Metric("parameters", "parameters", None, "{:,.0f}", False, True, "of the encoder cut after the layer"),
        Metric("flops", "FLOPs", None, "{:.3g}", False, True, "floating-point operations of an image, two a MAC"),
        Metric("latency_ms", "latency (ms)", None, "{:.2f}", False, True, "of a single image, median, in fp32"),
        Metric("throughput", "throughput", None, "{:.0f}", False, True, "images a second in batches, median, in fp32"),
    )
    while_training: ClassVar = False

    kind: Literal["cost"] = "cost"
    batch: PositiveInt = Field(64, description="images of a pass whose throughput is measured")
    repeats: PositiveInt = Field(10, description="passes that are timed, after two that are not; their median counts")
