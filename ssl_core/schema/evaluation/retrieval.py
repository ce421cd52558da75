"""Whether the images nearest to one are of its kind."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig
from ssl_core.schema.metric import Metric


class RetrievalConfig(EvaluatorConfig, implementation="ssl_core.evaluation.retrieval:Retrieval"):
    """Image retrieval by class labels: all other images of a query's class are to come before all others."""

    metrics: ClassVar = (
        Metric("retrieval", "retrieval mAP", True, "{:.1%}", True, True, "mean over queries of the average precision"),
        Metric("retrieval_map_r", "mAP@R", True, "{:.1%}", True, True, "the same of the R nearest, R as many as right"),
        Metric("retrieval_r1", "R@1", True, "{:.1%}", True, True, "queries whose nearest image is of their class"),
        Metric("retrieval_r5", "R@5", True, "{:.1%}", True, True, "queries with one among the 5 nearest"),
        Metric("retrieval_r10", "R@10", True, "{:.1%}", True, True, "the same of the 10 nearest"),
    )

    kind: Literal["retrieval"] = "retrieval"
    every: PositiveInt = Field(10, description="epochs; it costs the square of the images")
    database: Literal["val", "train"] = Field(
        "val", description="what is searched: val without the query itself, or train"
    )
    max_train: PositiveInt = Field(50_000, description="images of train that are searched")
    max_val: PositiveInt = Field(5_000, description="images of val that are queries")
