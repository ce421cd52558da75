"""The whole schema of a run: every key that can be set, its default, and what it means.

YAML recipes and `KEY=VALUE` overrides parse into these models and into nothing else
(`ssl_core.recipes` does that); unknown keys and wrong types are errors.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    field_validator,
    model_validator,
)

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Range = tuple[NonNegativeFloat, NonNegativeFloat]


def _rising(value: Any) -> Any:
    if value[0] > value[1]:
        raise ValueError(f"[{value[0]:g}, {value[1]:g}]: expected [least, most]")
    return value


ShareRange = Annotated[
    tuple[Annotated[float, Field(gt=0.0, le=1.0)], Annotated[float, Field(gt=0.0, le=1.0)]], AfterValidator(_rising)
]
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_rising)]


def _both_views(value: Any) -> Any:
    """One value means the same in both views: 0.5 is [0.5, 0.5]; [0.08, 1.0] for a range is that, twice."""
    return value if isinstance(value, (list, tuple)) else (value, value)


def _both_views_range(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and not any(isinstance(item, (list, tuple)) for item in value):
        return (value, value)
    return value


PerView = Annotated[tuple[Fraction, Fraction], BeforeValidator(_both_views)]
RangePerView = Annotated[tuple[Range, Range], BeforeValidator(_both_views_range)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    train: str | list[str] = Field(
        description="a folder of images, Parquet file(s) or a folder of them, or bundled:digits"
    )
    val: str | list[str] | None = Field(None, description="the same kinds; labelled, it is what k-NN is measured on")
    image_column: str = Field("image", description="Parquet: raw bytes, or Hugging Face's struct<bytes, path>")
    label_column: str = Field("label", description="Parquet: integers or strings; the column may be absent")
    labels: Literal["auto", "none"] = Field(
        "auto", description="none: ignore class folders and label columns (folders by date are no classes)"
    )
    limit: PositiveInt | None = Field(None, description="train on this many images, the same random ones every time")
    max_broken: Fraction = Field(0.05, description="stop when more than this fraction of the images cannot be decoded")
    cache_mb: PositiveInt = Field(
        512, description="Parquet row groups that a process keeps decoded from disk; a larger set is shuffled in blocks"
    )
    workers: NonNegativeInt | None = Field(
        None, description="loader processes per training worker; default: its CPUs less one, at most 8"
    )

    @property
    def paths(self) -> list[str]:
        """Where its images are, but for those that come with Strata."""
        given = [self.train, self.val] if self.val else [self.train]
        listed = [path for paths in given for path in ([paths] if isinstance(paths, str) else paths)]
        return [path for path in listed if not path.startswith("bundled:")]


class BackboneConfig(Section):
    name: str = Field("vit_small_patch16_224", description="any timm model that gives per-layer features")
    image_size: PositiveInt = 224
    patch_size: PositiveInt | None = Field(None, description="ViT only; default: the model's own")
    pool: Literal["token", "mean"] = Field("token", description="ViT only: class token, or mean of the patch tokens")
    freeze_patch_embed: bool = Field(False, description="MoCo v3: a frozen random patch projection")
    position: Literal["learned", "sincos"] = Field("learned", description="sincos: fixed 2-D sin-cos positions")
    kwargs: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = Field(
        default_factory=dict, description="passed to timm.create_model; in_chans: 1 trains on grey images"
    )

    @property
    def channels(self) -> int:
        return int(self.kwargs.get("in_chans", 3))


class FrameworkBase(Section):
    output_dim: PositiveInt = Field(256, description="width of projections and predictions")
    hidden_dim: PositiveInt = Field(4096, description="hidden width of the last layer's projector and all predictors")


class SimCLRConfig(FrameworkBase):
    name: Literal["simclr"]
    temperature: PositiveFloat = 0.2


class BYOLConfig(FrameworkBase):
    name: Literal["byol"]
    momentum: Fraction = Field(0.996, description="of the EMA teacher; rises to 1 by cosine")


class MoCoV3Config(FrameworkBase):
    name: Literal["mocov3"]
    temperature: PositiveFloat = 0.2
    momentum: Fraction = Field(0.996, description="of the EMA teacher; rises to 1 by cosine")


class SimSiamConfig(FrameworkBase):
    name: Literal["simsiam"]
    output_dim: PositiveInt = Field(2048, description="width of projections and predictions")
    hidden_dim: PositiveInt = Field(2048, description="hidden width of the projector")
    bottleneck_dim: PositiveInt = Field(512, description="hidden width of the predictor")
    projector_layers: Literal[2, 3] = 3
    constant_predictor_lr: bool = Field(True, description="the predictor's learning rate does not decay")


class DINOConfig(FrameworkBase):
    name: Literal["dino"]
    output_dim: PositiveInt = Field(65_536, description="number of prototypes")
    hidden_dim: PositiveInt = Field(2048, description="hidden width of the head")
    bottleneck_dim: PositiveInt = Field(256, description="width that is L2-normalised before the prototypes")
    head_norm: bool = Field(False, description="batch norm in the head; steadier where there are few images")
    temperature: PositiveFloat = Field(0.1, description="of the student")
    teacher_temperature: PositiveFloat = Field(0.04, description="of the teacher, after its warm-up")
    warmup_teacher_temperature: PositiveFloat = Field(0.04, description="where the warm-up starts")
    warmup_teacher_epochs: NonNegativeInt = Field(0, description="linear, epoch by epoch")
    center_momentum: Fraction = 0.9
    freeze_last_layer: NonNegativeInt = Field(1, description="epochs in which the prototypes stay as they are")
    momentum: Fraction = Field(0.996, description="of the EMA teacher; rises to 1 by cosine")


class EveryN(Section):
    every: PositiveInt


def _parse_layers(value: Any) -> Any:
    """`every: 2` and `every=2` on a command line mean {every: 2}."""
    if isinstance(value, str) and value.startswith("every"):
        return {"every": value.removeprefix("every").lstrip(" :=")}
    return value


def _layers_form(value: Any) -> str:
    if isinstance(value, (dict, EveryN)):
        return "every"
    return "list" if isinstance(value, list) else "all"


LayerChoice = Annotated[
    Annotated[Literal["all"], Tag("all")]
    | Annotated[EveryN, Tag("every")]
    | Annotated[list[PositiveInt], Field(min_length=1), Tag("list")],
    Discriminator(_layers_form),
    BeforeValidator(_parse_layers),
]


class RandomMaskConfig(Section):
    """Patches hidden one by one, as MAE hides them."""

    kind: Literal["random"] = "random"
    share: OpenFraction = Field(0.75, description="of the patches, hidden")


class BlockMaskConfig(Section):
    """Blocks of patches, as I-JEPA hides them."""

    kind: Literal["blocks"] = "blocks"
    targets: PositiveInt = Field(4, description="blocks to predict, which may overlap")
    target_scale: ShareRange = Field((0.15, 0.2), description="share of the image that one takes")
    target_aspect: PositiveRange = Field((0.75, 1.5), description="its height to its width")
    context_scale: ShareRange = Field((0.85, 1.0), description="share of the block that is seen, before targets go")
    least_context: OpenFraction = Field(0.05, description="share of the image that is seen at least, where it can be")


class PredictorConfig(Section):
    dim: PositiveInt = 384
    depth: PositiveInt = 6
    heads: PositiveInt = 12

    @model_validator(mode="after")
    def _divides(self) -> "PredictorConfig":
        if self.dim % self.heads or self.dim % 4:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads}), and of 4")
        return self


class MaskedBase(Section):
    """What the masked family has in common: the student sees a part of an image, and the rest is predicted."""

    mask: Annotated[BlockMaskConfig | RandomMaskConfig, Field(discriminator="kind")] = Field(
        default_factory=BlockMaskConfig
    )
    predictor: PredictorConfig = Field(default_factory=PredictorConfig)
    picture_every: PositiveInt = Field(10, description="epochs between two pictures of masks and errors")


class LatentBase(MaskedBase):
    momentum: Fraction = Field(0.996, description="of the EMA teacher, at the beginning")
    momentum_end: Fraction = Field(1.0, description="and at the end; linear between")


class IJEPAConfig(LatentBase):
    name: Literal["ijepa"]


class BootlegConfig(LatentBase):
    name: Literal["bootleg"]
    targets: LayerChoice = Field(
        EveryN(every=4),
        description="teacher layers: all, {every: n} from the last back, or a list; the last alone is ijepa",
    )
    target_weights: Annotated[list[PositiveFloat], Field(min_length=1)] | None = Field(
        None, description="of each target layer's loss, first to last; only ratios count. default: all the same"
    )


class MAEConfig(MaskedBase):
    name: Literal["mae"]
    mask: Annotated[BlockMaskConfig | RandomMaskConfig, Field(discriminator="kind")] = Field(
        default_factory=RandomMaskConfig
    )
    predictor: PredictorConfig = Field(default_factory=lambda: PredictorConfig(dim=512, depth=8, heads=16))
    norm_pixels: bool = Field(True, description="each patch by its own mean and deviation")


FrameworkConfig = Annotated[
    SimCLRConfig | BYOLConfig | MoCoV3Config | SimSiamConfig | DINOConfig | IJEPAConfig | BootlegConfig | MAEConfig,
    Field(discriminator="name"),
]


class DistillConfig(Section):
    """Hidden self-distillation (SDSSL): hidden layers learn from the last. alpha = beta = 0 is off."""

    alpha: NonNegativeFloat = Field(1.0, description="final weight of the hidden layers' loss (Eq. 4)")
    beta: NonNegativeFloat = Field(1.0, description="weight of the predictors' own loss (Eq. 6); needs a predictor")
    layers: LayerChoice = Field(
        "all", description="all, {every: n} counted back from the last, or a list such as [1, 4, 8]"
    )
    anneal: Literal["cosine", "none"] = Field("cosine", description="how alpha rises from 0 over the run")
    projector_layers: Literal[0, 2, 3] = Field(3, description="depth of the hidden layers' projectors (Table 6)")
    hidden_dim: PositiveInt | None = Field(
        None, description="hidden width of those projectors; default: half of the framework's"
    )
    per_layer_norm: bool = Field(False, description="each hidden layer its own final norm instead of the shared one")


class CacheConfig(Section):
    """What stands for an image where neighbours are searched."""

    source: Literal["teacher", "student"] = Field("teacher", description="student where there is no EMA teacher")
    feature: Literal["backbone", "projector"] = "backbone"
    view: Literal["first", "mean"] = Field("first", description="view 1, or the mean of both views")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of the cache on a GPU")


class PositivesConfig(Section):
    """Which image the second view is of: the image itself, or a neighbour (AdaSim, Lebailly et al., 2023)."""

    kind: Literal["augment", "nearest", "adasim", "labels"] = Field(
        "augment", description="the image itself, its nearest neighbour, one drawn by AdaSim, one of its class"
    )
    tau: NonNegativeFloat = Field(0.2, description="AdaSim: temperature of the draw; 0 is augment")
    tau_scale: Literal["absolute", "spread"] = Field(
        "absolute", description="spread: tau is in units of positives/spread, as similarities crowd together"
    )
    window: PositiveInt = Field(10, description="AdaSim: epochs whose neighbours count; none are drawn before")
    top_k: PositiveInt = Field(3, description="AdaSim: neighbours of an image, itself among them")
    support: Literal["topk", "union"] = Field(
        "topk", description="AdaSim: draw from the top_k largest sums (published code), or all (Eq. 11)"
    )
    unvisited: Literal["skip", "zeros"] = Field(
        "skip", description="images not yet seen: left out, or zero rows (published code)"
    )
    stale: Literal["drop", "repeat"] = Field(
        "drop", description="images not seen in an epoch add nothing to it, or their last neighbours (published code)"
    )
    search: Literal["exact", "ivf"] = Field("exact", description="ivf: approximate, for millions of images")
    probes: PositiveInt = Field(32, description="ivf: cells that a query looks into")
    label_share: Fraction = Field(
        0.5, description="labels: final probability of a partner of the same class; rises linearly from 0"
    )
    picture_every: PositiveInt = Field(10, description="epochs between two pictures of neighbours")
    cache: CacheConfig = Field(default_factory=CacheConfig)

    @property
    def searches(self) -> bool:
        """Whether neighbours are searched for at all."""
        return self.kind in ("nearest", "adasim")


class LocalCropsConfig(Section):
    """Multi-crop: further small views of the image that predict both targets (SwAV, DINO)."""

    count: PositiveInt = 8
    size: PositiveInt = Field(96, description="pixels")
    scale: Range = Field((0.05, 0.4), description="area of the random resized crop")
    blur: Fraction = 0.5


class ViewsConfig(Section):
    """Two random views of an image, as MoCo v3 and SDSSL publish them. One value serves both views; a pair, each."""

    crop_scale: RangePerView = Field(((0.08, 1.0), (0.08, 1.0)), description="area of the random resized crop")
    jitter: PerView = Field((0.8, 0.8), description="probability of colour jitter")
    brightness: NonNegativeFloat = 0.4
    contrast: NonNegativeFloat = 0.4
    saturation: NonNegativeFloat = 0.2
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.1
    grey: PerView = Field((0.2, 0.2), description="probability of dropping the colours")
    blur: PerView = Field((1.0, 0.1), description="probability of Gaussian blur")
    blur_sigma: Range = Field((0.1, 2.0), description="pixels, at 224 px; scaled with the image size")
    solarize: PerView = Field((0.0, 0.2), description="probability of inverting bright pixels")
    flip: PerView = Field((0.5, 0.5), description="probability of a horizontal flip")
    rotation: NonNegativeFloat = Field(0.0, description="degrees, uniform in ±rotation")
    local_crops: LocalCropsConfig | None = Field(None, description="multi-crop; absent: two views only")

    @field_validator("crop_scale")
    @classmethod
    def _ordered(cls, value: Any) -> Any:
        if any(low > high or high > 1.0 or low <= 0.0 for low, high in value):
            raise ValueError("a crop scale is a range of area fractions, 0 < low ≤ high ≤ 1")
        return value


class OptimConfig(Section):
    name: Literal["adamw", "sgd", "lars"] = "adamw"
    epochs: PositiveInt = 100
    batch_size: PositiveInt = Field(1024, description="images per optimizer step, over all workers and accumulation")
    lr: NonNegativeFloat = Field(1.5e-4, description="for a batch of 256; scaled linearly with batch_size")
    min_lr: NonNegativeFloat = Field(0.0, description="where the cosine ends; scaled likewise")
    warmup_epochs: NonNegativeFloat = 10
    weight_decay: NonNegativeFloat = 0.1
    weight_decay_end: NonNegativeFloat | None = Field(None, description="cosine to this; default: constant")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="AdamW")
    momentum: Fraction = Field(0.9, description="SGD and LARS")
    clip_grad: PositiveFloat | None = Field(None, description="largest norm of the whole gradient")
    precision: Literal["fp32", "bf16"] = "fp32"
    accumulate: PositiveInt = Field(1, description="micro-batches per step; negatives come from one micro-batch")

    @model_validator(mode="after")
    def _consistent(self) -> "OptimConfig":
        if self.warmup_epochs >= self.epochs and self.warmup_epochs > 0:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs:g}) must be less than epochs ({self.epochs})")
        return self


class KnnConfig(Section):
    kind: Literal["knn"] = "knn"
    every: PositiveInt = Field(1, description="epochs; the first and the last evaluation always take place")
    k: PositiveInt = 20
    temperature: PositiveFloat = 0.07
    max_train: PositiveInt = Field(50_000, description="size of the bank, drawn from train; bounds memory")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class LinearConfig(Section):
    """A linear probe: logistic regression on each layer's frozen features."""

    kind: Literal["linear"] = "linear"
    every: PositiveInt = Field(10, description="epochs; it costs more than k-NN, most of all with many classes")
    l2: NonNegativeFloat = Field(1e-3, description="weight of the squared weights, on features of deviation 1")
    max_train: PositiveInt = Field(50_000, description="images that it is fitted to, drawn from train")
    max_val: PositiveInt = Field(50_000, description="images of val that are classified")


class GeometryConfig(Section):
    """Signals that need no labels: std, RankMe, alignment, uniformity and their ratios (SDSSL Sec. 4.4)."""

    kind: Literal["geometry"] = "geometry"
    every: PositiveInt = 1
    max_images: PositiveInt = Field(2048, description="from val, or from train where there is none")


ACCURACIES = ("knn", "linear")
"""Evaluators that need labels; so are their metrics called."""
EvaluatorConfig = Annotated[KnnConfig | LinearConfig | GeometryConfig, Field(discriminator="kind")]


class ScalingConfig(Section):
    workers: PositiveInt | tuple[PositiveInt, PositiveInt] = Field(
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
    def bounds(self) -> tuple[int, int]:
        """The least and the most workers."""
        return self.workers if isinstance(self.workers, tuple) else (self.workers, self.workers)


class TrackingConfig(Section):
    uri: str | None = Field(None, description="MLflow tracking server; default: sqlite in strata-runs/mlflow.db")
    experiment: str = "strata"
    tags: dict[str, str] = Field(default_factory=dict)


class CheckpointConfig(Section):
    every_epochs: PositiveInt = 1
    every_steps: PositiveInt | None = Field(None, description="within an epoch too; default: after epochs only")
    keep: PositiveInt = Field(2, description="newest checkpoints to keep, beside the best")
    best: str = Field("knn/last", description="the metric whose highest value marks the best checkpoint")


class RunConfig(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "pretrain"
    seed: NonNegativeInt = 0
    data: DataConfig
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    framework: FrameworkConfig
    distill: DistillConfig | None = None
    positives: PositivesConfig = Field(default_factory=PositivesConfig)
    views: ViewsConfig = Field(default_factory=ViewsConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    evaluation: list[EvaluatorConfig] = Field(default_factory=lambda: [KnnConfig(), GeometryConfig()])
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
