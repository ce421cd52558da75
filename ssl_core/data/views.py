"""From a stored image to what the network sees: random views to train on, one fixed crop to evaluate.

torchvision's v2 transforms on PIL images, which for single images are faster than on tensors; blur is
Pillow's own, as in the published code. Randomness comes from torch's global generator.
"""

import math

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2

from ssl_core.schema.views import LocalCropsConfig, ViewsConfig

CROP_SHARE = 0.875  # evaluation: 256 → 224, at any size
OVERSHOOT = 1.25  # of a float image's white: how far beyond it values may lie
PIXELS_AT_ONCE = 1 << 20  # of a deep image, while it becomes one of 8 bits
THIN = 16  # from this ratio of its sides on an image is cropped before it is resized
NOMINAL_SIZE = 224  # the image size that blur's sigma is given for
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Grey, RGBA, palette, CMYK, 16-bit and float images alike → 8-bit, with 1 or 3 channels."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    wanted = "L" if channels == 1 else "RGB"
    return image if image.mode == wanted else image.convert(wanted)  # a copy of a large image is large


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey images of integers (0 … 65535, whatever their width) or floats → 8 bits; what lies beyond is clipped.

    Raises:
        ValueError: no pixel has a finite value.
    """
    pixels = np.asarray(image)
    low, high = _range(pixels) if image.mode == "F" else (0.0, 65535.0)
    found = np.empty(pixels.shape, np.uint8)
    rows = max(1, PIXELS_AT_ONCE // max(pixels.shape[1], 1))
    for top in range(0, len(pixels), rows):
        x = (pixels[top : top + rows].astype(np.float64) - low) * (255.0 / (high - low))
        found[top : top + rows] = np.nan_to_num(x, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).round()
    return Image.fromarray(found)


def _range(pixels: np.ndarray) -> tuple[float, float]:
    """Black and white of a float image: of the usual ranges the smallest that holds its finite values, or nearly so.

    Resampling takes values a little out of their range.
    """
    finite = pixels[np.isfinite(pixels)]
    if not len(finite):
        raise ValueError("no pixel has a finite value")
    lowest, highest = float(finite.min()), float(finite.max())
    if highest <= OVERSHOOT and -OVERSHOOT <= lowest < 1.0 - OVERSHOOT:
        return -1.0, 1.0
    return 0.0, next((white for white in (1.0, 255.0) if highest <= white * OVERSHOOT), 65535.0)


def to_tensor(image: Image.Image) -> Tensor:
    """PIL → (C, H, W) uint8."""
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def normalise(images: Tensor) -> Tensor:
    """uint8 (…, C, H, W) → float32 with ImageNet's mean and deviation (their average for grey images)."""
    scale, shift = _scale_and_shift(images)
    return images.float().mul_(scale).sub_(shift)


def denormalise(images: Tensor) -> Tensor:
    """The uint8 images (…, C, H, W) that `normalise` made these of."""
    scale, shift = _scale_and_shift(images)
    return ((images + shift) / scale).round().clamp(0, 255).to(torch.uint8)


def _scale_and_shift(images: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised is uint8 · scale − shift."""
    mean = torch.tensor(IMAGENET_MEAN, device=images.device)
    std = torch.tensor(IMAGENET_STD, device=images.device)
    if images.shape[-3] == 1:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    return (1.0 / (255.0 * std)).view(-1, 1, 1), (mean / std).view(-1, 1, 1)


class GaussianBlur(v2.Transform):
    """Pillow's Gaussian blur with a random sigma in pixels."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list) -> dict:
        return {"radius": torch.empty(1).uniform_(self.low, self.high).item()}

    def transform(self, inpt: Image.Image, params: dict) -> Image.Image:
        return inpt.filter(ImageFilter.GaussianBlur(params["radius"]))


def random_view(config: ViewsConfig, view: int, image_size: int, channels: int) -> v2.Compose:
    """The augmentation of one view (0 or 1): PIL image → PIL image of `image_size`."""
    probabilities = {name: getattr(config, name)[view] for name in ("jitter", "grey", "blur", "solarize", "flip")}
    return _augmentation(config, image_size, image_size, config.crop_scale[view], channels, **probabilities)


def local_view(config: ViewsConfig, local: LocalCropsConfig, image_size: int, channels: int) -> v2.Compose:
    """The augmentation of a local crop (multi-crop): as view 1's, but smaller, blurred as often as it says."""
    probabilities = {name: getattr(config, name)[0] for name in ("jitter", "grey", "flip")}
    return _augmentation(config, image_size, local.size, local.scale, channels, blur=local.blur, **probabilities)


def _augmentation(
    config: ViewsConfig,
    image_size: int,
    size: int,
    scale: tuple[float, float],
    channels: int,
    *,
    jitter: float,
    grey: float,
    blur: float,
    flip: float,
    solarize: float = 0.0,
) -> v2.Compose:
    colours = {"brightness": config.brightness, "contrast": config.contrast}
    if channels == 3:
        colours |= {"saturation": config.saturation, "hue": config.hue}
    low, high = (sigma * image_size / NOMINAL_SIZE for sigma in config.blur_sigma)
    steps = [
        (True, v2.RandomRotation(config.rotation)) if config.rotation else (False, None),
        (True, v2.RandomResizedCrop(size, scale=scale)),
        (jitter and any(colours.values()), v2.RandomApply([v2.ColorJitter(**colours)], jitter)),
        (grey and channels == 3, v2.RandomGrayscale(grey)),
        (blur, v2.RandomApply([GaussianBlur(low, high)], blur)),
        (solarize, v2.RandomSolarize(128, solarize)),
        (flip, v2.RandomHorizontalFlip(flip)),
    ]
    return v2.Compose([transform for wanted, transform in steps if wanted])


class CentreView:
    """Resize and centre crop, for evaluation: PIL image → PIL image of `size`.

    Args:
        size: pixels of a side.
        mask: of numbers that nothing lies between: they are not mixed.
    """

    def __init__(self, size: int, mask: bool = False):
        self.size, self.short = size, round(size / CROP_SHARE)
        self.resampling = Image.Resampling.NEAREST if mask else Image.Resampling.BILINEAR
        mode = v2.InterpolationMode.NEAREST if mask else v2.InterpolationMode.BILINEAR
        self.usual = v2.Compose([v2.Resize(self.short, mode), v2.CenterCrop(size)])

    def __call__(self, image: Image.Image) -> Image.Image:
        if max(image.size) <= THIN * min(image.size):
            return self.usual(image)
        return self._of_thin(image)

    def _of_thin(self, image: Image.Image) -> Image.Image:
        """The same, but what is cut off is not made larger first: of 1 × 40,000 pixels that would take gigabytes."""
        spans = [_kept(side, int(self.short * side / min(image.size)), self.size) for side in image.size]
        (left, right, x0, x1), (top, bottom, y0, y1) = spans
        near = image.crop((left, top, right, bottom))
        return near.resize((self.size, self.size), self.resampling, box=(x0, y0, x1, y1))


def _kept(length: int, resized: int, size: int) -> tuple[int, int, float, float]:
    """What a centre crop of `size` out of `resized` keeps of an image's `length`.

    Returns:
        First and last pixel with all that bilinear resampling looks at, and the kept span, counted from the first.
    """
    scale, first = length / resized, round((resized - size) / 2)
    low, high = first * scale, (first + size) * scale
    margin = math.ceil(max(scale, 1.0)) + 1
    start, end = max(0, math.floor(low) - margin), min(length, math.ceil(high) + margin)
    return start, end, low - start, min(high - start, end - start)
