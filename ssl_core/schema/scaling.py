"""`scaling`, `tracking`, `checkpoint`: where it runs, who is told, what is kept. None of them changes a result."""

from typing import Annotated, ClassVar

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    PrivateAttr,
    field_validator,
    model_validator,
)

from ssl_core.schema.types import OPERATION, Form, Section
from ssl_core.schema.urls import without_credentials


class ScalingConfig(Section):
    key: ClassVar = OPERATION

    workers: Annotated[
        PositiveInt | tuple[PositiveInt, PositiveInt], Form("a whole number above 0, or [least, most]")
    ] = Field(
        1, description="Ray Train workers; batch_size is shared among them; [least, most]: as many as there is room for"
    )
    cpus_per_worker: PositiveInt | None = Field(None, description="default: the cluster's CPUs shared evenly")
    gpus_per_worker: NonNegativeFloat | None = Field(None, description="default: 1 where the cluster has GPUs")
    max_failures: NonNegativeInt = Field(
        3, description="times that a run goes on by itself from its newest checkpoint after it lost a process or a node"
    )
    index_shards: PositiveInt = Field(1, description="actors that share the neighbour index, each a range of images")
    index_gpus: NonNegativeFloat = Field(0.0, description="GPUs of each of them, fractions allowed; 0 searches on CPUs")

    @field_validator("workers")
    @classmethod
    def _ordered(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise ValueError(f"[{value[0]}, {value[1]}]: expected [least, most], the smaller one first")
        return value

    @property
    def fixed(self) -> int:
        """The number of workers, where it is one.

        Raises:
            ValueError: it is a range.
        """
        if isinstance(self.workers, tuple):
            raise ValueError(f"scaling.workers: {list(self.workers)}: expected one number")
        return self.workers

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the most workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)


class TrackingConfig(Section):
    key: ClassVar = OPERATION

    uri: str | None = Field(None, description="MLflow tracking server; default: sqlite in strata-runs/mlflow.db")
    experiment: Annotated[str, Field(min_length=1, max_length=500), Form("text, 1 to 500 signs")] = "strata"
    tags: Annotated[
        dict[Annotated[str, Field(pattern=r"^[\w./: -]+$", max_length=250)], str],
        Form("keys and values, each text; a key's signs are letters, digits and _-.:/, 1 to 250 of them"),
    ] = Field(default_factory=dict)

    _connection: str | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _keep_credentials_apart(self) -> "TrackingConfig":
        if self.uri is not None and (public := without_credentials(self.uri)) != self.uri:
            self._connection = self.uri
            object.__setattr__(self, "uri", public)
        return self

    @property
    def connection(self) -> str | None:
        """`uri` with the name and password that it was given with: to connect, and for nothing else.

        They are no part of what is shown or written down, so that a configuration read from a file has none.
        """
        return self._connection or self.uri


class CheckpointConfig(Section):
    key: ClassVar = OPERATION

    every_epochs: PositiveInt = 1
    every_steps: PositiveInt | None = Field(None, description="within an epoch too; default: after epochs only")
    keep: PositiveInt = Field(2, description="newest checkpoints to keep, beside the best")
    best: str = Field("knn/last", description="the metric whose best value, high or low, marks the best checkpoint")
