"""The whole schema of a run: every key that can be set, its default, and what it means, a section a file.

YAML recipes and `KEY=VALUE` overrides parse into these models and into nothing else
(`ssl_core.recipes` does that); unknown keys and wrong types are errors.
"""

from typing import TYPE_CHECKING, Annotated, TypeAlias

from pydantic import Field, model_validator

from ssl_core.schema.data import DataConfig
from ssl_core.schema.distill import DistillConfig
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.schema.evaluation import EvaluatorConfig, GeometryConfig, KnnConfig
from ssl_core.schema.objectives import MaskedBase, ObjectiveConfig
from ssl_core.schema.optim import OptimConfig
from ssl_core.schema.positives import PositivesConfig
from ssl_core.schema.scaling import CheckpointConfig, ScalingConfig, TrackingConfig
from ssl_core.schema.types import OPERATION, Form, Section
from ssl_core.schema.views import ViewsConfig

if TYPE_CHECKING:
    AnyObjective: TypeAlias = ObjectiveConfig
    AnyEvaluator: TypeAlias = EvaluatorConfig
else:  # those that are known by now, those of other packages too
    AnyObjective, AnyEvaluator = ObjectiveConfig.any_of(), EvaluatorConfig.any_of()


NAME_FORM = Form("letters, digits, dots, dashes and underscores, a letter or a digit first, at most 200 of them")


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"), NAME_FORM, OPERATION] = "pretrain"
    seed: Annotated[int, Field(ge=0, lt=2**64), Form("a whole number of at least 0 and below 2**64")] = 0
    data: DataConfig
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    framework: AnyObjective | None = Field(None, description="what the network learns from, by name")
    objectives: list[AnyObjective] = Field(
        default_factory=list,
        description="in the place of framework: several objectives at once, each with its weight; "
        "the first says whether the teacher or the student is evaluated",
    )
    distill: DistillConfig | None = None
    positives: PositivesConfig = Field(default_factory=PositivesConfig)
    views: ViewsConfig = Field(default_factory=ViewsConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    evaluation: list[AnyEvaluator] = Field(default_factory=lambda: [KnnConfig(), GeometryConfig()])
    scaling: ScalingConfig = Field(default_factory=ScalingConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)

    @property
    def all_objectives(self) -> list[ObjectiveConfig]:
        """What the network learns from: `objectives`, or `framework` alone."""
        return [self.framework] if self.framework is not None else list(self.objectives)

    @property
    def objective_keys(self) -> list[str]:
        """Where the section of each of them stands."""
        return ["framework"] if self.framework is not None else [f"objectives.{n}" for n in range(len(self.objectives))]

    @property
    def method_name(self) -> str:
        """Their names, for people."""
        return " + ".join(objective.name for objective in self.all_objectives)

    @property
    def paths(self) -> list[str]:
        """Where its images are, those of its evaluators too, but for those of sources by name."""
        own = [evaluator.data for evaluator in self.evaluation if evaluator.data is not None]
        found = [*self.data.paths, *self.backbone.paths, *(path for data in own for path in data.paths)]
        return list(dict.fromkeys(found))

    @property
    def views_per_image(self) -> int:
        """Random views of an image that some objective compares."""
        return max(objective.views for objective in self.all_objectives)

    @property
    def hides(self) -> list[ObjectiveConfig]:
        """Those of the objectives that hide patches."""
        return [objective for objective in self.all_objectives if objective.hides]

    @property
    def masked(self) -> MaskedBase | None:
        """The first of the masked family among them, of whose masks there are pictures."""
        return next((objective for objective in self.hides if isinstance(objective, MaskedBase)), None)

    @model_validator(mode="after")
    def _composes(self) -> "RunConfig":
        if (self.framework is None) == (not self.objectives):
            raise ValueError("framework: expected one of framework (a method by name) and objectives (a list of them)")
        names = [objective.name for objective in self.all_objectives]
        if doubled := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"objectives: {doubled[0]} is there twice; each objective once")
        named = self.method_name
        if self.distill is not None and not any(objective.layered for objective in self.all_objectives):
            raise ValueError(f"distill: {named} has no loss for hidden layers; set distill=null")
        if self.positives.kind != "augment" and self.views_per_image < 2:
            raise ValueError(f"positives.kind: {named} learns from one view of an image; set positives.kind=augment")
        if self.views.local_crops is not None and not any(objective.crops for objective in self.all_objectives):
            raise ValueError(f"views.local_crops: {named} learns from one view of an image; set views.local_crops=null")
        return self

    @model_validator(mode="after")
    def _continues_from_something(self) -> "RunConfig":
        if self.backbone.weights is None:
            for key, off in (("warm_heads", 0), ("layer_decay", None)):
                if getattr(self.optim, key) != off:
                    raise ValueError(
                        f"optim.{key}: it spares weights that are good already, and there are none; "
                        "set backbone.weights=FILE, a run's folder or timm:NAME, to start from such"
                    )
        return self

    @model_validator(mode="after")
    def _tells_evaluators_apart(self) -> "RunConfig":
        kinds = [(evaluator.kind, evaluator.name) for evaluator in self.evaluation]
        if doubled := [kind for kind in kinds if kinds.count(kind) > 1]:
            raise ValueError(f"evaluation: {doubled[0][0]} is there twice under one name; give one of them a name")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        compares = next((objective for objective in self.all_objectives if objective.views > 1), None)
        by_projector = self.positives.searches and self.positives.cache.feature == "projector"
        if by_projector and compares is not None and not compares.embeds:
            raise ValueError(
                f"positives.cache.feature: {compares.name} has no projections that can stand for an image in a search; "
                "set positives.cache.feature=backbone"
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
        images, over = divmod(self.optim.batch_size, self.optim.accumulate)
        most = min(most, images // 2) if not over else 0
        return [workers for workers in range(most, least - 1, -1) if images % workers == 0]

    def with_workers(self, workers: int) -> "RunConfig":
        """The same run, on so many workers."""
        return self.model_copy(update={"scaling": self.scaling.model_copy(update={"workers": workers})})

    @property
    def micro_batch(self) -> int:
        """Images of one forward pass in one worker; the number of workers must be one."""
        return self.optim.batch_size // (self.scaling.fixed * self.optim.accumulate)
