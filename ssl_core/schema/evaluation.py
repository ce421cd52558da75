"""`evaluation`: what is measured of every layer, and how often."""

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from ssl_core.schema.metric import Metric
from ssl_core.schema.registry import Registered
from ssl_core.schema.types import OPERATION, Form, Paths, Section

EvaluatorName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$"), Form("letters, digits, - and _, at most 100 of them")
]


class EvaluationDataConfig(Section):
    """Images that an evaluator looks at instead of the run's own; otherwise read as `data` says."""

    key: ClassVar = OPERATION

    train: Paths = Field(description="the bank that k-NN looks in and probes are fitted to")
    val: Paths | None = Field(None, description="what is classified")
    labels: Literal["auto", "none"] = Field("auto", description="none: ignore class folders and label columns")
    image_column: str | None = Field(None, description="Parquet; default: that of data")
    label_column: str | None = Field(None, description="Parquet; default: that of data")


class EvaluatorConfig(Registered):
    """The base of all evaluators."""

    key: ClassVar = OPERATION

    tag: ClassVar[str] = "kind"
    group: ClassVar[str] = "strata.evaluators"
    known: ClassVar[dict[str, type[Registered]]] = {}

    metrics: ClassVar[tuple[Metric, ...]]
    """What it measures of every layer."""

    if TYPE_CHECKING:
        kind: str

    every: PositiveInt = Field(1, description="epochs; the first and the last evaluation always take place")
    name: EvaluatorName | None = Field(
        None, description="before its metrics' names, NAME.knn/last; default: none. Two of one kind need different ones"
    )
    data: EvaluationDataConfig | None = Field(
        None, description="other images than the run's own: {train: …, val: …}; needs a name"
    )

    @model_validator(mode="after")
    def _has_a_name(self) -> "EvaluatorConfig":
        if self.data is not None and self.name is None:
            raise ValueError(
                "name: missing; it tells what is measured of other images from the run's: NAME.METRIC/last"
            )
        return self

    @property
    def needs_labels(self) -> bool:
        return any(metric.needs_labels for metric in self.metrics)

    def named(self, metric: str) -> str:
        """What one of its metrics is called in a run."""
        return metric if self.name is None else f"{self.name}.{metric}"


class KnnConfig(EvaluatorConfig, implementation="ssl_core.evaluation.knn:Knn"):
    metrics: ClassVar = (
        Metric("knn", "k-NN accuracy", True, "{:.1%}", True, True, "share of val classified rightly by its k nearest"),
    )

    kind: Literal["knn"] = "knn"
    k: PositiveInt = 20
    temperature: PositiveFloat = 0.07
    max_train: PositiveInt = Field(50_000, description="size of the bank, drawn from train; bounds memory")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class LinearConfig(EvaluatorConfig, implementation="ssl_core.evaluation.linear:LinearProbe"):
    """A linear probe: logistic regression on each layer's frozen features."""

    metrics: ClassVar = (
        Metric("linear", "linear probe", True, "{:.1%}", True, True, "share of val classified rightly by a linear map"),
    )

    kind: Literal["linear"] = "linear"
    every: PositiveInt = Field(10, description="epochs; it costs more than k-NN, most of all with many classes")
    l2: NonNegativeFloat = Field(1e-3, description="weight of the squared weights, on features of deviation 1")
    max_train: PositiveInt = Field(50_000, description="images that it is fitted to, drawn from train")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class GeometryConfig(EvaluatorConfig, implementation="ssl_core.evaluation.geometry:Geometry"):
    """Signals that need no labels: std, RankMe, alignment, uniformity and their ratios (SDSSL Sec. 4.4)."""

    metrics: ClassVar = (
        Metric("rankme", "RankMe", True, "{:.1f}", False, True, "effective number of directions that features fill"),
        Metric("std", "std", True, "{:.2f}", False, True, "deviation of unit features × √D: 1 is even, 0 collapsed"),
        Metric("alignment", "alignment", False, "{:.3f}", False, True, "squared distance of two views of an image"),
        Metric("uniformity", "uniformity", False, "{:.2f}", False, True, "how evenly features fill the sphere"),
        Metric("uniformity_ratio", "uniformity ratio", True, "{:.2f}", False, True, "−uniformity ÷ alignment", True),
        Metric(
            "alignment_ratio", "alignment ratio", True, "{:.2f}", False, True, "distance of images ÷ of views", True
        ),
    )

    kind: Literal["geometry"] = "geometry"
    max_images: PositiveInt = Field(2048, description="from val, or from train where there is none")
