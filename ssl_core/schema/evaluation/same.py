"""Whether an encoder knows an image again: copies of it, near-duplicates in a set of images."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig, PlacesConfig
from ssl_core.schema.metric import Metric
from ssl_core.schema.types import MeasuredLayers

COPY_KINDS = ("crop", "jpeg", "blur", "insertion", "text", "rotation")
"""What is done to images whose copies are to be found."""


class CopydaysConfig(PlacesConfig):
    """Copies and their originals in folders, as Copydays has them."""

    places: ClassVar = ("copydays",)

    copydays: Annotated[str, Field(min_length=1)] = Field(
        description="folder with `original`, and with `strong` or another part"
    )
    part: str = Field("strong", description="which copies are asked about: strong, jpeg, crop, or jpeg/10 …")


class CopiesConfig(EvaluatorConfig, implementation="ssl_core.evaluation.copies:Copies"):
    """Copy detection: strongly distorted images are to find their originals among others. It needs no labels."""

    metrics: ClassVar = (
        Metric("copies", "copies mAP", True, "{:.1%}", False, True, "mean over copies of 1 ÷ rank of the original"),
        Metric("copies_interval", "± copies", None, "{:.1%}", False, True, "half of its 95 % interval", True),
        Metric("copies_micro", "copies µAP", True, "{:.1%}", False, True, "average precision of all pairs in one list"),
        *(
            Metric(f"copies_{kind}", f"copies: {kind}", True, "{:.1%}", False, True, f"mAP of those by {kind}", True)
            for kind in COPY_KINDS
        ),
    )
    while_training: ClassVar[bool] = False

    kind: Literal["copies"] = "copies"
    originals: PositiveInt = Field(200, description="images of val, or of train where there is none, that are copied")
    distractors: PositiveInt = Field(2000, description="others of these, among which originals are looked for")
    whitening: PositiveInt = Field(2000, description="images of train, none of the others, that PCA is fitted to")
    data: CopydaysConfig | None = Field(
        None, description="{copydays: FOLDER}: copies that are there, instead of ones made here; needs a name"
    )


class DuplicatesConfig(EvaluatorConfig, implementation="ssl_core.evaluation.duplicates:DuplicatesFound"):
    """Near-duplicates in train, and between train and val (leaks), with a picture of them."""

    metrics: ClassVar = (
        Metric("duplicates", "near-duplicates", None, "{:.0f}", meaning="images of train that another one stands for"),
        Metric("duplicate_groups", "groups", None, "{:.0f}", meaning="groups of near-duplicates, of train and val"),
        Metric("leaks", "leaks", None, "{:.0f}", meaning="images of val that have a near-duplicate in train"),
        Metric(
            "duplicates_threshold", "threshold", None, "{:.4f}", meaning="cosine similarity of near-duplicates, found"
        ),
    )
    while_training: ClassVar[bool] = False

    kind: Literal["duplicates"] = "duplicates"
    layers: MeasuredLayers = Field("last", description="the deepest of these tells what is alike")
    max_train: PositiveInt = Field(50_000, description="images of train that are looked at")
    max_val: PositiveInt = Field(50_000, description="images of val that are looked at")
