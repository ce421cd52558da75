"""Fine-tuning: the encoder is trained end to end, with all labels or few."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig
from ssl_core.schema.metric import Metric
from ssl_core.schema.types import Form, MeasuredLayers, OpenFraction

BelowOne = Annotated[float, Field(ge=0.0, lt=1.0)]


class FinetuneConfig(EvaluatorConfig, implementation="ssl_core.evaluation.finetune:Finetune"):
    """A copy of the encoder, cut after the layer, is trained with a linear classifier (MAE, A.1; BEiT)."""

    metrics: ClassVar = (
        Metric("finetune", "fine-tuned", True, "{:.1%}", True, True, "share of val known after the last epoch"),
        Metric("finetune_per_class", "fine-tuned, classes", True, "{:.1%}", True, True, "mean over classes", True),
        Metric("finetune_interval", "± fine-tuned", None, "{:.1%}", True, True, "half of its 95 % interval", True),
    )
    while_training: ClassVar = False

    kind: Literal["finetune"] = "finetune"
    layers: MeasuredLayers = Field("last", description="behind which the encoder is cut: all, last, {every: n}, a list")
    label_share: Annotated[OpenFraction, Form("a number between 0 and 1, such as 0.01")] | None = Field(
        None, description="of train's labels that are used, as many of each class; every run draws others; default: all"
    )
    runs: PositiveInt = Field(1, description="trainings with seeds of their own, whose mean is measured")
    epochs: PositiveInt | None = Field(None, description="default: 100, or 30 of fewer than 50,000 images")
    batch: PositiveInt = Field(1024, description="at most; of few images a sixteenth of them, and 16 at least")
    rate: PositiveFloat = Field(5e-4, description="of the classifier (AdamW), for a batch of 256 or fewer")
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.65, description="a layer's rate is that of the next one times this"
    )
    weight_decay: NonNegativeFloat = 0.05
    warmup: BelowOne = Field(0.05, description="share of the steps in which rates rise; then they fall to 0 (cosine)")
    drop_path: BelowOne = Field(
        0.1, description="stochastic depth of the last block; networks that have none go without"
    )
    mixup: NonNegativeFloat = Field(0.8, description="α of mixup; 0: none")
    cutmix: NonNegativeFloat = Field(1.0, description="α of CutMix; 0: none")
    smoothing: BelowOne = Field(0.1, description="of labels")
    randaugment: int = Field(9, ge=0, le=9, description="RandAugment's magnitude (timm's, 2 steps); 0: none")
    seed: NonNegativeInt = Field(
        0, description="of all that is drawn, the same for all runs so that they can be compared"
    )
    max_train: PositiveInt | None = Field(None, description="images of train; default: all")
    max_val: PositiveInt | None = Field(None, description="images of val that are classified; default: all")
