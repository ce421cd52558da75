"""The whole schema of a run: every key that can be set, its default, and what it means, a section a file.

YAML recipes and `KEY=VALUE` overrides parse into these models and into nothing else
(`ssl_core.recipes` does that); unknown keys and wrong types are errors.
"""

from typing import Annotated

from pydantic import Field, NonNegativeInt, model_validator

from ssl_core.schema.data import DataConfig
from ssl_core.schema.distill import DistillConfig
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.evaluation import EvaluatorConfig, GeometryConfig, KnnConfig
from ssl_core.schema.objectives import MaskedBase, ObjectiveConfig
from ssl_core.schema.optim import OptimConfig
from ssl_core.schema.positives import PositivesConfig
from ssl_core.schema.scaling import CheckpointConfig, ScalingConfig, TrackingConfig
from ssl_core.schema.types import Section
from ssl_core.schema.views import ViewsConfig


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "pretrain"
    seed: NonNegativeInt = 0
    data: DataConfig
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    framework: ObjectiveConfig.any_of()
    distill: DistillConfig | None = None
    positives: PositivesConfig = Field(default_factory=PositivesConfig)
    views: ViewsConfig = Field(default_factory=ViewsConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    evaluation: list[EvaluatorConfig.any_of()] = Field(default_factory=lambda: [KnnConfig(), GeometryConfig()])
    scaling: ScalingConfig = Field(default_factory=ScalingConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)

    @property
    def masked(self) -> bool:
        """Whether the method hides patches of one view, rather than comparing two."""
        return isinstance(self.framework, MaskedBase)

    @model_validator(mode="after")
    def _composes(self) -> "RunConfig":
        if self.masked:
            name = self.framework.name
            if self.distill is not None:
                raise ValueError(f"distill: {name} compares no views; framework.name=bootleg predicts hidden layers")
            if self.positives.kind != "augment":
                raise ValueError(f"positives.kind: {name} learns from one view of an image; it takes augment only")
            if self.views.local_crops is not None:
                raise ValueError(f"views.local_crops: {name} learns from one view of an image; leave it out")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        if self.positives.searches and self.framework.name == "dino" and self.positives.cache.feature == "projector":
            raise ValueError(
                f"positives.cache.feature: projector would keep {self.framework.output_dim} prototypes of every image; "
                "DINO searches with positives.cache.feature=backbone"
            )
        if self.possible_workers:
            return self
        least, most = self.scaling.bounds
        if most > least:
            raise ValueError(
                f"scaling.workers: no number from {least} to {most} shares optim.batch_size "
                f"({self.optim.batch_size}) evenly, with at least 2 images to a micro-batch"
            )
        share = least * self.optim.accumulate
        if self.optim.batch_size % share:
            raise ValueError(
                f"optim.batch_size ({self.optim.batch_size}) must divide evenly by "
                f"scaling.workers × optim.accumulate ({share})"
            )
        raise ValueError(
            f"optim.batch_size ({self.optim.batch_size}) leaves fewer than 2 images to a worker's micro-batch"
        )

    @property
    def possible_workers(self) -> list[int]:
        """Numbers of workers that share the batch evenly, the most first."""
        least, most = self.scaling.bounds
        images = self.optim.batch_size / self.optim.accumulate
        return [n for n in range(most, least - 1, -1) if images % n == 0 and images // n >= 2]

    def with_workers(self, workers: int) -> "RunConfig":
        """The same run, on so many workers."""
        return self.model_copy(update={"scaling": self.scaling.model_copy(update={"workers": workers})})

    @property
    def micro_batch(self) -> int:
        """Images of one forward pass in one worker; the number of workers must be one."""
        return self.optim.batch_size // (self.scaling.workers * self.optim.accumulate)
