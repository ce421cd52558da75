"""Whether the images nearest to one are of its kind: by class labels, or by a file that says which are of which."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from ssl_core.schema.data import Labels
from ssl_core.schema.evaluation.base import EvaluationDataConfig, EvaluatorConfig
from ssl_core.schema.metric import Metric
from ssl_core.schema.types import Paths


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


class RevisitedDataConfig(EvaluationDataConfig):
    """A database, queries, and which images of the one are right for which of the other."""

    places: ClassVar[tuple[str, ...]] = ("train", "val", "truth")

    train: Paths = Field(description="the database, with distractors where there are any")
    val: Paths = Field(description="the queries; where the file has a box, what is in it is looked at")
    truth: str = Field(min_length=1, description="a JSON file: query to easy, hard and junk images of the database")
    labels: Labels = Field("none", description="class folders mean nothing here")


class RevisitedConfig(EvaluatorConfig, implementation="ssl_core.evaluation.revisited:Revisited"):
    """The protocols Easy, Medium and Hard of the revisited Oxford and Paris (Radenović et al., 2018)."""

    metrics: ClassVar = (
        Metric("revisited_medium", "mAP (Medium)", True, "{:.1%}", False, True, "easy and hard images are right"),
        Metric("revisited_hard", "mAP (Hard)", True, "{:.1%}", False, True, "hard ones are, easy ones do not count"),
        Metric("revisited_easy", "mAP (Easy)", True, "{:.1%}", False, True, "easy ones are, hard ones do not count"),
        Metric("revisited_medium_p10", "mP@10 (Medium)", True, "{:.1%}", False, True, "right of the 10 nearest"),
        Metric("revisited_hard_p10", "mP@10 (Hard)", True, "{:.1%}", False, True, "right of the 10 nearest"),
        Metric("revisited_easy_p10", "mP@10 (Easy)", True, "{:.1%}", False, True, "right of the 10 nearest"),
    )
    while_training: ClassVar = False

    kind: Literal["revisited"] = "revisited"
    data: RevisitedDataConfig = Field(description="what is searched, what for, and what is right; needs a name")
