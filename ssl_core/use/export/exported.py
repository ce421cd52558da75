"""What is handed to other programs: an encoder that ends at a layer, and what its images are to look like."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ssl_core.data.views import CROP_SHARE, IMAGENET_MEAN, IMAGENET_STD, CentreView
from ssl_core.errors import InputError
from ssl_core.networks.blocks import Blocks
from ssl_core.networks.cut import cut
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.networks.weights import fit_weights
from ssl_core.schema.encoder import BackboneConfig
from ssl_core.use.subject import Subject


@dataclass(frozen=True)
class Exported:
    """An encoder that ends at a layer, on the CPU.

    Attributes:
        subject: the whole encoder, at the size that is exported: what the export is compared with.
        layer: from 1; the last of `encoder`.
        chosen_by: what speaks for it, in words.
        encoder: has nothing behind the layer; a hidden layer's own final norm stands in the place of the model's.
        digest: of the weights as they were trained, whatever the size.
    """

    subject: Subject
    layer: int
    chosen_by: str
    encoder: Encoder
    digest: str

    @property
    def backbone(self) -> BackboneConfig:
        return self.subject.config.backbone

    @property
    def is_cut(self) -> bool:
        return self.layer < self.subject.encoder.depth

    @property
    def is_vit(self) -> bool:
        return isinstance(self.encoder.inside, Blocks)

    @property
    def dim(self) -> int:
        """Of a feature."""
        return self.encoder.widths[-1]

    @torch.no_grad()
    def expected(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What an export is to give for normalised images (N, C, H, W): pooled (N, D) and patches (N, P, D)."""
        found = self.subject.look(images, Want((self.layer,), (self.layer,)))
        if self.layer in self.subject.norms:  # which Strata applies to what is pooled alone
            return found.pooled[self.layer], Features(self.encoder)(images)[1]
        return found.pooled[self.layer], found.patches[self.layer]


class Features(nn.Module):
    """Normalised images (N, C, H, W) → pooled (N, D) and patches (N, P, D) of an encoder's last layer."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        last = self.encoder.depth
        found = self.encoder(images, Want((last,), (last,)))
        return found.pooled[last], found.patches[last]


def prepare(subject: Subject, layer: int, chosen_by: str = "", size: int | None = None) -> Exported:
    """The encoder as it is to be exported.

    Args:
        layer: from 1.
        size: of images in pixels; default: the encoder's own. A ViT's positions are interpolated.

    Raises:
        InputError: the encoder has no such layer, cannot be cut behind it, or takes no images of that size.
    """
    digest = subject.digest
    if size is not None and size != subject.config.backbone.image_size:
        subject = _at_size(subject, size)
    subject.encoder.to("cpu").eval()
    encoder = cut(subject.encoder, layer).eval()
    if layer in subject.norms:
        _set_final_norm(encoder, subject.norms[layer])
    for parameter in encoder.parameters():
        parameter.requires_grad = False
    return Exported(subject, layer, chosen_by, encoder, digest)


def _at_size(subject: Subject, size: int) -> Subject:
    if size < 1:
        raise InputError(f"--size: expected pixels, 1 or more (given: {size})")
    backbone = subject.config.backbone.model_copy(update={"image_size": size, "weights": None})
    try:
        encoder = Encoder(backbone)
        fit_weights(encoder, subject.encoder.model.state_dict(), subject.name)
    except InputError as error:
        raise InputError(f"--size: {error}") from error
    return replace(subject, encoder=encoder, config=subject.config.model_copy(update={"backbone": backbone}))


def _set_final_norm(encoder: Encoder, norm: nn.Module) -> None:
    assert isinstance(encoder.inside, Blocks), "blocks alone have norms of their own"
    name = "fc_norm" if isinstance(encoder.inside.token_norm, nn.Identity) else "norm"
    setattr(encoder.model, name, norm)


def preprocessing(backbone: BackboneConfig) -> dict[str, Any]:
    """How an image becomes a tensor, in the words of timm's `pretrained_cfg`; what `CentreView` and `normalise` do."""
    size, channels = backbone.image_size, backbone.channels
    short = CentreView(size).short
    # timm resizes to the whole part of size / crop_pct.
    share = CROP_SHARE if int(size / CROP_SHARE) == short else size / (short + 0.5)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    if channels == 1:
        mean, std = mean.mean(0, keepdim=True), std.mean(0, keepdim=True)
    return {
        "input_size": [channels, size, size],
        "interpolation": "bilinear",
        "crop_pct": share,
        "crop_mode": "center",
        "mean": mean.tolist(),
        "std": std.tolist(),
    }
