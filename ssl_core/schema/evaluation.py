"""`evaluation`: what is measured of every layer, and how often."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ssl_core.schema.types import Section


class KnnConfig(Section):
    kind: Literal["knn"] = "knn"
    every: PositiveInt = Field(1, description="epochs; the first and the last evaluation always take place")
    k: PositiveInt = 20
    temperature: PositiveFloat = 0.07
    max_train: PositiveInt = Field(50_000, description="size of the bank, drawn from train; bounds memory")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class LinearConfig(Section):
    """A linear probe: logistic regression on each layer's frozen features."""

    kind: Literal["linear"] = "linear"
    every: PositiveInt = Field(10, description="epochs; it costs more than k-NN, most of all with many classes")
    l2: NonNegativeFloat = Field(1e-3, description="weight of the squared weights, on features of deviation 1")
    max_train: PositiveInt = Field(50_000, description="images that it is fitted to, drawn from train")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class GeometryConfig(Section):
    """Signals that need no labels: std, RankMe, alignment, uniformity and their ratios (SDSSL Sec. 4.4)."""

    kind: Literal["geometry"] = "geometry"
    every: PositiveInt = 1
    max_images: PositiveInt = Field(2048, description="from val, or from train where there is none")


ACCURACIES = ("knn", "linear")
"""Evaluators that need labels; so are their metrics called."""
EvaluatorConfig = Annotated[KnnConfig | LinearConfig | GeometryConfig, Field(discriminator="kind")]
