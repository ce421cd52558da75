"""What every run measures, cheap enough for each epoch: k-NN, a linear probe, signals that need no labels."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig
from ssl_core.schema.metric import Metric
from ssl_core.schema.types import Form


class KnnConfig(EvaluatorConfig, implementation="ssl_core.evaluation.knn:Knn"):
    metrics: ClassVar = (
        Metric("knn", "k-NN accuracy", True, "{:.1%}", True, True, "share of val classified rightly by its k nearest"),
        Metric("knn_mean_class", "k-NN by class", True, "{:.1%}", True, True, "the same, the mean over classes", True),
    )

    kind: Literal["knn"] = "knn"
    k: Annotated[
        PositiveInt | Annotated[list[PositiveInt], Field(min_length=1)],
        Form("a whole number above 0, or a list of them to choose from"),
    ] = Field(20, description="neighbours; of a list the best is taken, chosen on a held-out part of train")
    temperature: PositiveFloat = 0.07
    max_train: PositiveInt = Field(50_000, description="size of the bank, drawn from train; bounds memory")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class LinearConfig(EvaluatorConfig, implementation="ssl_core.evaluation.linear:LinearProbe"):
    """A linear probe: logistic regression on each layer's frozen features."""

    metrics: ClassVar = (
        Metric("linear", "linear probe", True, "{:.1%}", True, True, "share of val classified rightly by a linear map"),
        Metric("linear_mean_class", "linear by class", True, "{:.1%}", True, True, "the mean over classes", True),
    )

    kind: Literal["linear"] = "linear"
    every: PositiveInt = Field(10, description="epochs; it costs more than k-NN, most of all with many classes")
    l2: Annotated[
        NonNegativeFloat | Annotated[list[NonNegativeFloat], Field(min_length=1)],
        Form("a number of at least 0, or a list of them to choose from"),
    ] = Field(
        1e-3,
        description="weight of the squared weights, on features of deviation 1; of a list the best is taken, chosen on "
        "a held-out part of train",
    )
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
        Metric("alpha_req", "α-ReQ", None, "{:.2f}", False, True, "how fast the variances of directions fall", True),
        Metric(
            "stable_rank", "stable rank", True, "{:.1f}", False, True, "variance ÷ that of the largest direction", True
        ),
    )

    kind: Literal["geometry"] = "geometry"
    max_images: PositiveInt = Field(2048, description="from val, or from train where there is none")


class LidarConfig(EvaluatorConfig, implementation="ssl_core.evaluation.lidar:Lidar"):
    """LiDAR: how many directions tell images apart, beside what tells views of one image apart. It needs no labels."""

    metrics: ClassVar = (
        Metric("lidar", "LiDAR", True, "{:.1f}", False, True, "effective rank of what tells images from their views"),
    )
    while_training: ClassVar = False

    kind: Literal["lidar"] = "lidar"
    views: int = Field(10, ge=2, description="of each image, augmented as the run's")
    max_images: int = Field(1000, ge=2, description="from val, or from train where there is none")
    delta: PositiveFloat = Field(1e-4, description="added to the variance of views in every direction")
