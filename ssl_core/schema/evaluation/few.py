"""What is learned from few labels: episodes of prototypes, ridge regression on k images a class, shares of labels."""

from typing import ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

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
