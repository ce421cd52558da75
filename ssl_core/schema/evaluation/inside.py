"""What an encoder's layers have to do with each other, and pictures of what they see."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig
from ssl_core.schema.metric import Metric


class CkaConfig(EvaluatorConfig, implementation="ssl_core.evaluation.cka:Cka"):
    """How alike the features of every two layers are (linear CKA; SDSSL, Fig. 6), with a heat map."""

    metrics: ClassVar = (
        Metric("cka_neighbours", "CKA of neighbours", None, "{:.3f}", meaning="mean CKA of layers that are adjacent"),
        Metric("cka_ends", "CKA of both ends", None, "{:.3f}", meaning="CKA of the first layer and the last"),
    )

    kind: Literal["cka"] = "cka"
    every: PositiveInt = Field(10, description="epochs; it costs the square of the layers")
    max_images: int = Field(2048, ge=4, description="from val, or from train where there is none")
