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


class ProjectionConfig(EvaluatorConfig, implementation="ssl_core.evaluation.projection:Projection"):
    """Pictures of where images lie in each layer's features: PCA, then t-SNE (SDSSL, Fig. 5)."""

    metrics: ClassVar = ()
    while_training: ClassVar[bool] = False

    kind: Literal["projection"] = "projection"
    max_images: int = Field(
        1000, ge=10, description="from val, or from train where there is none; of ten classes, where there are labels"
    )


class PatchesConfig(EvaluatorConfig, implementation="ssl_core.evaluation.patches:Patches"):
    """Pictures of patch tokens: their first three principal components as colours, and the class token's attention."""

    metrics: ClassVar = ()
    while_training: ClassVar[bool] = False

    kind: Literal["patches"] = "patches"
    images: PositiveInt = Field(8, le=64, description="how many are shown, always the same ones")
