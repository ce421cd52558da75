"""`data`: where the images are, and how they are read."""

import re
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from ssl_core.schema.types import OPERATION, Fraction, Paths, Section


def scheme_of(path: str) -> tuple[str, str] | None:
    """Scheme and name of a source by name, such as `bundled:digits`; None for a path or a URI."""
    found = re.fullmatch(r"([a-z][a-z0-9_-]+):(?!//)(.*)", path)
    return (found[1], found[2]) if found else None


def paths_of(*given: str | list[str] | None) -> list[str]:
    """Paths and URIs, without sources by name."""
    listed = [path for paths in given if paths for path in ([paths] if isinstance(paths, str) else paths)]
    return [path for path in listed if scheme_of(path) is None]


class DataConfig(Section):
    train: Annotated[Paths, OPERATION] = Field(
        description="a folder of images, Parquet file(s) or a folder of them, or bundled:digits", examples=["FOLDER"]
    )
    val: Annotated[Paths | None, OPERATION] = Field(
        None, description="the same kinds; labelled, it is what k-NN is measured on"
    )
    image_column: str = Field("image", description="Parquet: raw bytes, or Hugging Face's struct<bytes, path>")
    label_column: str = Field("label", description="Parquet: integers or strings; the column may be absent")
    labels: Literal["auto", "none"] = Field(
        "auto", description="none: ignore class folders and label columns (folders by date are no classes)"
    )
    limit: PositiveInt | None = Field(None, description="train on this many images, the same random ones every time")
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

    @property
    def paths(self) -> list[str]:
        """Where its images are, but for those of sources by name."""
        return paths_of(self.train, self.val)
