"""What patch tokens know of where things are: segmentation, and objects followed through a video."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from ssl_core.schema.evaluation.base import EvaluatorConfig, PlacesConfig
from ssl_core.schema.metric import Metric
from ssl_core.schema.types import MeasuredLayers

Folder = Annotated[str, Field(min_length=1)]


class MasksConfig(PlacesConfig):
    """Images with masks of classes: in PASCAL VOC's folders, ADE20K's, or two folders with equal names."""

    places: ClassVar = ("train", "val", "train_masks", "val_masks")

    train: Folder = Field(description="folder that VOC or ADE20K lie in; or of images, with train_masks")
    val: Folder | None = Field(None, description="the same for what is measured; default: the val of train's folder")
    train_masks: Folder | None = Field(None, description="folder of PNG masks, named as the images in train are")
    val_masks: Folder | None = Field(None, description="folder of PNG masks, named as the images in val are")
    classes: PositiveInt | None = Field(None, description="how many; default: as the layout has it, or the masks")


class SegmentationConfig(EvaluatorConfig, implementation="ssl_core.evaluation.segmentation:Segmentation"):
    """Segmentation by frozen patch tokens: a linear classifier of patches, and k-NN of patches (CAPI, DINOv2)."""

    metrics: ClassVar = (
        Metric("segmentation", "mIoU, linear", True, "{:.1%}", False, True, "mean IoU by a linear map of patches"),
        Metric("segmentation_knn", "mIoU, k-NN", True, "{:.1%}", False, True, "mean IoU by the nearest patches"),
    )
    while_training: ClassVar[bool] = False

    kind: Literal["segmentation"] = "segmentation"
    layers: MeasuredLayers = Field("last", description="which are measured: last, all, {every: n}, or a list")
    data: MasksConfig | None = Field(None, description="images and masks: {train: …, val: …}; needs a name")
    k: tuple[PositiveInt, ...] = Field((1, 3, 10, 30), min_length=1, description="the best of them on a part of train")
    temperature: PositiveFloat = Field(0.07, description="of the votes of k-NN")
    l2: NonNegativeFloat = Field(1e-3, description="of the linear map's squared weights, as that of linear")
    max_train: PositiveInt = Field(5000, description="images that patches are taken from")
    max_patches: PositiveInt = Field(100_000, description="patches of these, as many of each image; bounds memory")
    max_val: PositiveInt = Field(5000, description="images that are measured")


class DavisConfig(PlacesConfig):
    """Videos with masks of objects, in DAVIS' folders."""

    places: ClassVar = ("davis",)

    davis: Folder = Field(description="folder with JPEGImages, Annotations and ImageSets")
    split: str = Field("val", description="list of sequences in ImageSets/YEAR")
    year: str = "2017"
    resolution: str = "480p"


class VideoConfig(EvaluatorConfig, implementation="ssl_core.evaluation.video:VideoSegmentation"):
    """Objects followed through a video by patch tokens alone: labels go from frame to frame (Jabri et al.; DINO)."""

    metrics: ClassVar = (
        Metric("video", "video J&F", True, "{:.1%}", False, True, "mean of J and F over objects"),
        Metric("video_j", "video J", True, "{:.1%}", False, True, "IoU of regions, mean over frames and objects", True),
        Metric(
            "video_f", "video F", True, "{:.1%}", False, True, "F of boundaries, mean over frames and objects", True
        ),
    )
    while_training: ClassVar[bool] = False

    kind: Literal["video"] = "video"
    layers: MeasuredLayers = Field("last", description="which are measured: last, all, {every: n}, or a list")
    data: DavisConfig | None = Field(None, description="{davis: FOLDER}; needs a name")
    frames: PositiveInt = Field(7, description="before a frame that labels come from, besides the first one")
    radius: PositiveInt = Field(12, description="patches that something may have moved by")
    top_k: PositiveInt = Field(5, description="patches that a patch takes its label from")
    temperature: PositiveFloat = Field(0.1, description="of their weights")
