"""`data`: where the images are, and how they are read."""

import re
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from ssl_core.schema.types import OPERATION, Form, Fraction, OpenFraction, Paths, Section

Labels = Annotated[str, Field(min_length=1), Form("auto, none, or the path of a CSV or Parquet file")]
Word = Annotated[str, Field(min_length=1)]


def scheme_of(path: str) -> tuple[str, str] | None:
    """Scheme and name of a source by name, such as `bundled:digits`; None for a path or a URI."""
    found = re.fullmatch(r"([a-z][a-z0-9_-]+):(?!//)(.*)", path)
    return (found[1], found[2]) if found else None


def paths_of(*given: str | list[str] | None) -> list[str]:
    """Paths and URIs, without sources by name."""
    listed = [path for paths in given if paths for path in ([paths] if isinstance(paths, str) else paths)]
    return [path for path in listed if scheme_of(path) is None]


def labels_file(labels: str) -> str | None:
    """The path that `labels` names; None where it is `auto` or `none`."""
    return None if labels in ("auto", "none") else labels


class SplitConfig(Section):
    """Which images of `train` are for validation: a share of each class, or those that a column says."""

    share: OpenFraction | None = Field(
        None,
        description="this share, of each class where there are labels, drawn at random; a class of 2 has 1 in each",
    )
    seed: NonNegativeInt = Field(0, description="share: another one draws other images")
    column: Word | None = Field(None, description="instead of share: a column of the file of labels, or of Parquet")
    val: Word | None = Field(None, description="column: what it says of images for validation, such as test")
    train: Word | None = Field(None, description="column: what it says of those to train on; default: all others")

    @model_validator(mode="after")
    def _is_one_of_two(self) -> "SplitConfig":
        if (self.share is None) == (self.column is None):
            raise ValueError("expected either a share, {share: 0.25}, or a column, {column: split, val: test}")
        if self.column is None and (self.val is not None or self.train is not None):
            raise ValueError("val and train say what a column holds, and none is given")
        if self.column is not None and self.val is None:
            raise ValueError(f"val: missing; what column {self.column} says of images for validation")
        return self


def one_val(val: Paths | None, split: SplitConfig | None) -> None:
    """Refuse images for validation that are named, and taken out of `train` besides."""
    if val is not None and split is not None:
        raise ValueError("split: val is given as well; set one of them to null")


class DataConfig(Section):
    train: Annotated[Paths, OPERATION] = Field(
        description="a folder of images, Parquet file(s) or a folder of them, or bundled:digits", examples=["FOLDER"]
    )
    val: Annotated[Paths | None, OPERATION] = Field(
        None, description="the same kinds; labelled, it is what k-NN is measured on"
    )
    image_column: str = Field("image", description="Parquet: raw bytes, or Hugging Face's struct<bytes, path>")
    labels: Labels = Field(
        "auto",
        description="auto: class folders, or Parquet's label column. none: neither (folders by date are no classes). "
        "Else a CSV or Parquet file with a row for each image of a folder; a relative path is looked for in the "
        "images' folder, then from the working directory",
    )
    name_column: Word | None = Field(
        None, description="file of labels: names of images; by name, or number from 1; default: filename, image, id, …"
    )
    label_column: Word | None = Field(
        None,
        description="Parquet: integers or strings, default label; the column may be absent. File of labels: by name, "
        "or number from 1; default: label, class, species, …",
    )
    label_above: float | None = Field(
        None, description="labels that are numbers: two classes, at most this and above it"
    )
    split: SplitConfig | None = Field(
        None, description="take the images of val out of train: {share: 0.25}, or {column: split, val: test}"
    )
    limit: PositiveInt | None = Field(
        None, description="train on this many images, the same random ones every time; counted after the split"
    )
    max_broken: Annotated[Fraction, OPERATION] = Field(
        0.05, description="stop when more than this fraction of the images cannot be decoded"
    )
    cache_mb: PositiveInt = Field(
        512,
        description="Parquet row groups that a process keeps decoded from disk; a larger set is shuffled in blocks, "
        "so that the order of its images depends on this",
    )
    workers: Annotated[NonNegativeInt | None, OPERATION] = Field(
        None, description="loader processes per training worker; default: its CPUs less one, at most 8"
    )

    @model_validator(mode="after")
    def _has_one_val(self) -> "DataConfig":
        one_val(self.val, self.split)
        return self

    @property
    def paths(self) -> list[str]:
        """Where its images and labels are, but for those of sources by name."""
        return paths_of(self.train, self.val, labels_file(self.labels))
