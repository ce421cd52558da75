"""`evaluation`: what is measured of every layer, and how often."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ssl_core.schema.registry import Registered


class EvaluatorConfig(Registered):
    """The base of all evaluators."""

    tag: ClassVar[str] = "kind"
    group: ClassVar[str] = "strata.evaluators"
    known: ClassVar[dict[str, type[Registered]]] = {}

    every: PositiveInt = Field(1, description="epochs; the first and the last evaluation always take place")


class KnnConfig(EvaluatorConfig, implementation="ssl_core.evaluation:_knn"):
    kind: Literal["knn"] = "knn"
    k: PositiveInt = 20
    temperature: PositiveFloat = 0.07
    max_train: PositiveInt = Field(50_000, description="size of the bank, drawn from train; bounds memory")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class LinearConfig(EvaluatorConfig, implementation="ssl_core.evaluation:_linear"):
    """A linear probe: logistic regression on each layer's frozen features."""

    kind: Literal["linear"] = "linear"
    every: PositiveInt = Field(10, description="epochs; it costs more than k-NN, most of all with many classes")
    l2: NonNegativeFloat = Field(1e-3, description="weight of the squared weights, on features of deviation 1")
    max_train: PositiveInt = Field(50_000, description="images that it is fitted to, drawn from train")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class GeometryConfig(EvaluatorConfig, implementation="ssl_core.evaluation:_geometry"):
    """Signals that need no labels: std, RankMe, alignment, uniformity and their ratios (SDSSL Sec. 4.4)."""

    kind: Literal["geometry"] = "geometry"
    max_images: PositiveInt = Field(2048, description="from val, or from train where there is none")


ACCURACIES = ("knn", "linear")
"""Evaluators that need labels; so are their metrics called."""
