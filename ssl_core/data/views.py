"""From a stored image to what the network sees: random views to train on, one fixed crop to evaluate.

torchvision's v2 transforms on PIL images, which for single images are faster than on tensors; blur is
Pillow's own, as in the published code. Randomness comes from torch's global generator.
"""

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2

from ssl_core.schema.views import ViewsConfig

CROP_SHARE = 0.875  # evaluation: 256 → 224, at any size
NOMINAL_SIZE = 224  # the image size that blur's sigma is given for
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Grey, RGBA, palette, CMYK and 16-bit images alike → 8-bit, with 1 or 3 channels."""
    if image.mode.startswith(("I", "F")):
        pixels = np.asarray(image).astype(np.float64)
        scale = 255.0 if image.mode == "F" and pixels.max(initial=0.0) <= 1.0 else 1.0 / 257.0
        if image.mode in ("I", "F") and scale != 255.0 and pixels.max(initial=0.0) <= 255.0:
            scale = 1.0
        image = Image.fromarray(np.clip(pixels * scale, 0, 255).round().astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


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


def local_view(config: ViewsConfig, image_size: int, channels: int) -> v2.Compose:
    """The augmentation of a local crop (multi-crop): as view 1's, but smaller, blurred as often as it says."""
    local = config.local_crops
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


def centre_view(image_size: int) -> v2.Compose:
    """Resize and centre crop, for evaluation."""
    return v2.Compose([v2.Resize(round(image_size / CROP_SHARE)), v2.CenterCrop(image_size)])
