"""What is learned from few labels: episodes of prototypes, ridge regression on k images a class, shares of labels."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig
from ssl_core.schema.metric import Metric


class FewshotConfig(EvaluatorConfig, implementation="ssl_core.evaluation.fewshot:Fewshot"):
    """Prototypical networks: in each episode a query is of the class whose mean of few images is nearest."""

    metrics: ClassVar = (
        Metric("fewshot", "few-shot", True, "{:.1%}", True, True, "mean over episodes, Euclidean distance"),
        Metric("fewshot_interval", "± few-shot", None, "{:.1%}", True, True, "half of its 95 % interval", True),
        Metric("fewshot_cosine", "few-shot (cosine)", True, "{:.1%}", True, True, "the same by cosine similarity"),
        Metric(
            "fewshot_cosine_interval", "± few-shot (cosine)", None, "{:.1%}", True, True, "half of its interval", True
        ),
    )

    kind: Literal["fewshot"] = "fewshot"
    every: PositiveInt = Field(10, description="epochs")
    ways: int = Field(5, ge=2, description="classes of an episode")
    shots: PositiveInt = Field(5, description="images of each class that its prototype is the mean of")
    queries: PositiveInt = Field(15, description="other images of each class, which are classified")
    episodes: int = Field(600, ge=2, description="how many are drawn")
    seed: NonNegativeInt = Field(0, description="of the draws, the same for all runs so that they can be compared")
    max_images: PositiveInt = Field(50_000, description="of val, that episodes are drawn from")


class LowshotConfig(EvaluatorConfig, implementation="ssl_core.evaluation.lowshot:Lowshot"):
    """Closed-form ridge regression on few images of each class (big_vision's `fewshot_lsr`)."""

    metrics: ClassVar = (
        Metric("lowshot", "low-shot", True, "{:.1%}", True, True, "share of val classified rightly, mean over shots"),
        Metric("lowshot_1", "1 shot", True, "{:.1%}", True, True, "fitted to 1 image a class, mean over draws"),
        Metric("lowshot_1_interval", "± 1 shot", None, "{:.1%}", True, True, "half of its 95 % interval", True),
        Metric("lowshot_2", "2 shots", True, "{:.1%}", True, True, "fitted to 2 images a class"),
        Metric("lowshot_2_interval", "± 2 shots", None, "{:.1%}", True, True, "half of its 95 % interval", True),
        Metric("lowshot_5", "5 shots", True, "{:.1%}", True, True, "fitted to 5 images a class"),
        Metric("lowshot_5_interval", "± 5 shots", None, "{:.1%}", True, True, "half of its 95 % interval", True),
        Metric("lowshot_10", "10 shots", True, "{:.1%}", True, True, "fitted to 10 images a class"),
        Metric("lowshot_10_interval", "± 10 shots", None, "{:.1%}", True, True, "half of its 95 % interval", True),
        Metric("lowshot_25", "25 shots", True, "{:.1%}", True, True, "fitted to 25 images a class"),
        Metric("lowshot_25_interval", "± 25 shots", None, "{:.1%}", True, True, "half of its 95 % interval", True),
    )
    while_training: ClassVar = False

    kind: Literal["lowshot"] = "lowshot"
    shots: Annotated[list[Literal[1, 2, 5, 10, 25]], Field(min_length=1)] | None = Field(
        None, description="images of each class; default: those of 1, 2, 5, 10 and 25 that each class of train has"
    )
    draws: PositiveInt = Field(3, description="of images, for each number of shots")
    l2: Annotated[list[PositiveFloat], Field(min_length=1)] = Field(
        [1.0, 32.0, 1024.0, 32768.0],
        description="weights of the squared weights; the best on a held-out part of train is taken",
    )
    seed: NonNegativeInt = Field(0, description="of the draws, the same for all runs so that they can be compared")
    max_train: PositiveInt = Field(50_000, description="of train, that images are drawn from")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class SemiConfig(EvaluatorConfig, implementation="ssl_core.evaluation.semi:Semi"):
    """The linear probe fitted to a small share of the labels, as many images of each class (SimCLR, BYOL)."""

    metrics: ClassVar = (
        Metric("semi_1", "1 % of labels", True, "{:.1%}", True, True, "linear probe on 1 % of them, mean over draws"),
        Metric("semi_1_interval", "± 1 % of labels", None, "{:.1%}", True, True, "half of its 95 % interval", True),
        Metric("semi_10", "10 % of labels", True, "{:.1%}", True, True, "linear probe on 10 % of them"),
        Metric("semi_10_interval", "± 10 % of labels", None, "{:.1%}", True, True, "half of its 95 % interval", True),
    )
    while_training: ClassVar = False

    kind: Literal["semi"] = "semi"
    percent: Annotated[list[Literal[1, 10]], Field(min_length=1)] | None = Field(
        None, description="of the labels of train; default: those of 1 and 10 that are two images of each class"
    )
    draws: PositiveInt = Field(3, description="of images, for each share")
    l2: Annotated[list[NonNegativeFloat], Field(min_length=1)] = Field(
        [1e-4, 1e-3, 1e-2, 1e-1],
        description="weights of the squared weights; the best on a fifth of the drawn labels is taken",
    )
    seed: NonNegativeInt = Field(0, description="of the draws, the same for all runs so that they can be compared")
    max_train: PositiveInt = Field(1_300_000, description="of train, that images are drawn from")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")
