"""What every evaluator can be told: how often, of which layers, of which images, under which name."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, PositiveInt, model_validator
from typing_extensions import Self

from ssl_core.schema.data import Labels, SplitConfig, Word, one_val, paths_of
from ssl_core.schema.metric import Metric
from ssl_core.schema.registry import Registered
from ssl_core.schema.types import OPERATION, Form, MeasuredLayers, Paths, Section

EvaluatorName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_-]{1,100}$"), Form("letters, digits, - and _, at most 100 of them")
]


class PlacesConfig(Section):
    """Where an evaluator finds data of its own. One that reads another layout has a section of its own for it.

    Attributes:
        places: the keys that hold paths.
    """

    key: ClassVar = OPERATION
    places: ClassVar[tuple[str, ...]]

    @property
    def paths(self) -> list[str]:
        """All of them, but for sources by name."""
        return paths_of(*(getattr(self, key) for key in self.places))

    def moved(self, move: Callable[[str], str]) -> Self:
        """The same with other paths."""

        def each(paths: str | list[str] | None) -> str | list[str] | None:
            return [move(path) for path in paths] if isinstance(paths, list) else paths and move(paths)

        return self.model_copy(update={key: each(getattr(self, key)) for key in self.places})


class EvaluationSplitConfig(SplitConfig):
    key: ClassVar = OPERATION


class EvaluationDataConfig(PlacesConfig):
    """Images that an evaluator looks at instead of the run's own; otherwise read as `data` says."""

    places: ClassVar[tuple[str, ...]] = ("train", "val")

    train: Paths = Field(description="the bank that k-NN looks in and probes are fitted to")
    val: Paths | None = Field(None, description="what is classified")
    labels: Labels = Field("auto", description="as data.labels")
    image_column: str | None = Field(None, description="Parquet; default: that of data")
    name_column: Word | None = Field(None, description="file of labels; default: that of data")
    label_column: Word | None = Field(None, description="Parquet, file of labels; default: that of data")
    label_above: float | None = Field(None, description="as data.label_above")
    split: EvaluationSplitConfig | None = Field(None, description="as data.split")

    @model_validator(mode="after")
    def _has_one_val(self) -> Self:
        one_val(self.val, self.split)
        return self


class EvaluatorConfig(Registered):
    """The base of all evaluators."""

    key: ClassVar = OPERATION

    tag: ClassVar[str] = "kind"
    group: ClassVar[str] = "strata.evaluators"
    known: ClassVar[dict[str, type[Registered]]] = {}

    metrics: ClassVar[tuple[Metric, ...]]
    """What it measures: of every layer, or of the network as a whole."""
    version: ClassVar[int] = 1
    """Of its protocol: what was measured by another is not compared, and not taken for done."""
    while_training: ClassVar[bool] = True
    """Whether it is cheap enough to be measured between epochs; `strata evaluate` alone measures the others."""

    if TYPE_CHECKING:
        kind: str

    every: PositiveInt = Field(1, description="epochs; the first and the last evaluation always take place")
    name: EvaluatorName | None = Field(
        None, description="before its metrics' names, NAME.knn/last; default: none. Two of one kind need different ones"
    )
    layers: MeasuredLayers = Field("all", description="which are measured: all, last, {every: n}, or a list")
    if TYPE_CHECKING:
        data: PlacesConfig | None = None
    else:
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
