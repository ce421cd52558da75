"""Objects followed through a video by nothing but patch tokens (Jabri et al., 2020; the protocol of DINO).

The mask of the first frame is given. A patch takes its label from the patches that are most like it in the first frame
and the last few, not too far from its place. Frames are seen whole, as squares of the encoder's image size. J and F are
DAVIS' own (Perazzi et al., 2016; Pont-Tuset et al., 2017), of all frames but the first and the last.
"""

import math
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import binary_dilation
from torch import Tensor

from ssl_core.data.sources.base import Images
from ssl_core.data.sources.davis import Video, open_davis
from ssl_core.data.sources.decode import decode
from ssl_core.data.views import normalise, to_channels, to_tensor
from ssl_core.errors import DataError, InputError
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context
from ssl_core.networks.layers import Want
from ssl_core.schema.evaluation import VideoConfig

BATCH = 16  # frames that are looked at at once
FLAT = 1e-5  # spread of labels that is rounding
TOLERANCE = 0.008  # of a frame's diagonal: how far a boundary may be off


class VideoSegmentation(Evaluator[VideoConfig]):
    def __init__(self, config: VideoConfig, context: Context):
        super().__init__(config, context)
        self.videos = _open(config)

    @classmethod
    def check(cls, config: VideoConfig, images: Images) -> None:
        _open(config)

    def measure(self, layer: int) -> dict[str, float]:
        found = []
        for number, video in enumerate(self.videos, start=1):
            found.append(scores(video, self._masks(video, layer + 1)))
            self.context.tell(f"following objects through {video.name}", number, len(self.videos))
        objects = np.concatenate(found)
        self.outcomes[layer] = objects.mean(axis=1)
        j, f = objects.mean(axis=0).tolist()
        return {"video": (j + f) / 2, "video_j": j, "video_f": f}

    def _masks(self, video: Video, layer: int) -> dict[int, np.ndarray]:
        """Numbers of objects (H, W) in every frame but the first."""
        features = F.normalize(self._features(video, layer), dim=-1)
        side, given = features.shape[1], video.first_mask
        names = object_names(given)
        small = np.asarray(Image.fromarray(given).resize((side, side), Image.Resampling.NEAREST))
        first = torch.from_numpy(np.stack([small == name for name in names], axis=-1)).float().to(features.device)
        config = self.config
        labels = propagate(features, first, config.frames, config.radius, config.top_k, config.temperature)
        return {frame: names[to_pixels(labels[frame], given.shape).cpu().numpy()] for frame in range(1, len(labels))}

    def _features(self, video: Video, layer: int) -> Tensor:
        """Patch features (T, side, side, D) of all frames."""
        found = []
        for start in range(0, len(video.frames), BATCH):
            pixels = torch.stack([self._frame(file) for file in video.frames[start : start + BATCH]])
            with torch.no_grad():
                seen = self.context.look(normalise(pixels.to(self.context.device)), Want(patches=(layer,)))
            found.append(seen.patches[layer].float())
        patches = torch.cat(found)
        side = math.isqrt(patches.shape[1])
        return patches.unflatten(1, (side, side))

    def _frame(self, file: Path) -> Tensor:
        backbone = self.context.config.backbone
        try:
            image = to_channels(decode(file.read_bytes()), backbone.channels)
        except Exception as error:
            raise DataError(f"{file} cannot be read: {error}") from error
        return to_tensor(image.resize((backbone.image_size, backbone.image_size), Image.Resampling.BILINEAR))


def propagate(features: Tensor, first: Tensor, frames: int, radius: int, top_k: int, temperature: float) -> Tensor:
    """Labels of all frames from those of the first: each frame's from it and from the `frames` before it.

    A patch's label is the mean of those of the `top_k` most similar patches, of all these frames, that lie at most
    `radius` rows and columns away, weighted by exp(cos / temperature).

    Args:
        features: (T, h, w, D) of length 1.
        first: (h, w, C).

    Returns:
        (T, h, w, C).
    """
    height, width = features.shape[1:3]
    flat = features.flatten(1, 2)
    near = _near(height, width, radius).to(features.device)
    found = [first.flatten(0, 1)]
    recent: deque[int] = deque(maxlen=frames)
    for frame in range(1, len(flat)):
        sources = [0, *recent]
        similar = torch.stack([flat[frame] @ flat[source].T for source in sources], dim=1)  # (P, sources, P)
        similar = similar.masked_fill(~near[:, None], -math.inf).flatten(1)
        values, places = similar.topk(min(top_k, similar.shape[1]), dim=1)
        weights = (values / temperature).softmax(dim=1)
        labels = torch.cat([found[source] for source in sources])
        found.append((weights[:, :, None] * labels[places]).sum(dim=1))
        recent.append(frame)
    return torch.stack(found).unflatten(1, (height, width))


def _near(height: int, width: int, radius: int) -> Tensor:
    """(P, P) bool: which patches are at most `radius` rows and columns apart."""
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    return ((rows[:, None] - rows).abs() <= radius) & ((columns[:, None] - columns).abs() <= radius)


def to_pixels(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Which label (H, W) each pixel has by labels of patches (h, w, C): bilinear, each stretched to 0 … 1 (DINO)."""
    maps = F.interpolate(labels.permute(2, 0, 1)[None], size=tuple(shape), mode="bilinear", align_corners=False)[0]
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    spread = high - low
    stretched = (maps - low) / spread.clamp(min=FLAT)
    return torch.where(spread > FLAT, stretched, maps).argmax(dim=0)


def object_names(mask: np.ndarray) -> np.ndarray:
    """The numbers in a mask, the background's 0 first."""
    return np.concatenate([[0], np.setdiff1d(np.unique(mask), [0])]).astype(mask.dtype)


def scores(video: Video, masks: Mapping[int, np.ndarray]) -> np.ndarray:
    """J and F (objects, 2) of every object of the first frame, each the mean over frames that have a true mask."""
    names = object_names(video.first_mask)[1:]
    found = []
    for frame in measured_frames(video):
        truth = video.mask(frame)
        assert truth is not None
        if truth.shape != masks[frame].shape:
            raise DataError(f"{video.masks[frame]} has another size than the mask of the first frame")
        pairs = [(masks[frame] == name, truth == name) for name in names]
        found.append([(region(*pair), boundary(*pair)) for pair in pairs])
    return np.array(found).mean(axis=0)


def measured_frames(video: Video) -> list[int]:
    """All with a mask, but the first and, as DAVIS has it, the last, where it is not the only one."""
    there = [frame for frame in range(1, len(video.frames)) if video.masks[frame] is not None]
    return [frame for frame in there if frame < len(video.frames) - 1] or there


def region(predicted: np.ndarray, truth: np.ndarray) -> float:
    """J: intersection over union of two masks (H, W) bool; 1 where both are empty."""
    union = (predicted | truth).sum()
    return float((predicted & truth).sum() / union) if union else 1.0


def boundary(predicted: np.ndarray, truth: np.ndarray) -> float:
    """F: harmonic mean of the shares of either boundary that lie near the other one (masks (H, W) bool)."""
    radius = math.ceil(TOLERANCE * math.hypot(*truth.shape))
    reach = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    edge, true_edge = outline(predicted), outline(truth)
    if not (edge.any() and true_edge.any()):
        return float(edge.any() == true_edge.any())
    precision = (edge & binary_dilation(true_edge, reach)).sum() / edge.sum()
    recall = (true_edge & binary_dilation(edge, reach)).sum() / true_edge.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def outline(mask: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool that differ from one of those to the right, below, and below right (DAVIS' seg2bmap)."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    return (mask != padded[:-1, 1:]) | (mask != padded[1:, :-1]) | (mask != padded[1:, 1:])


def _open(config: VideoConfig) -> list[Video]:
    """The videos.

    Raises:
        InputError: none are named, they cannot be read, or there is nothing to measure in one.
    """
    data = config.data
    if data is None:
        raise InputError("data: missing; video needs videos with masks, {davis: FOLDER}, and a name")
    try:
        videos = open_davis(Path(data.davis), data.split, data.year, data.resolution)
    except InputError as error:
        raise InputError(f"data.davis: {error}") from error
    for video in videos:
        if not measured_frames(video):
            raise InputError(f"data.davis: {video.name} has no mask but that of the first frame: nothing to measure")
    return videos
