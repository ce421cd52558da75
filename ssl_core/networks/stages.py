"""The layers of a convolutional model: its last stages, each a map of places, of a width of its own."""

from typing import Any

from torch import Tensor, nn

from ssl_core.networks.layers import Layers, Want

STAGES = 4  # the deepest feature maps are its layers


class Stages:
    """Asks a timm model for features of its stages.

    Attributes:
        widths: channels of every stage's map.

    Args:
        model: the timm model.
    """

    def __init__(self, model: Any):
        self.model = model
        channels: list[int] = [stage["num_chs"] for stage in model.feature_info]
        self.widths = channels[-STAGES:]
        self._before = len(channels) - len(self.widths)  # maps ahead of the first layer

    @property
    def token_norm(self) -> nn.Module:
        """The model's own norm of the last map's places, before pooling."""
        return self._norm_or_identity(self.model)

    @property
    def pooled_norm(self) -> nn.Module:
        """The model's own norm of what was pooled of the last map."""
        return self._norm_or_identity(getattr(self.model, "head", None))

    def place_of(self, layer: int) -> int:
        """The number, from 0, that timm gives the map of a layer (from 1)."""
        return self._before + layer - 1

    def features(self, images: Tensor, want: Want) -> Layers:
        """The averages of the maps of the stages asked for, and their places."""
        maps = self.model.forward_intermediates(
            images,
            indices=[self.place_of(layer) for layer in want.layers],
            intermediates_only=True,
            stop_early=True,
        )
        by_layer = dict(zip(want.layers, maps, strict=True))
        return Layers(
            {layer: self._pooled(layer, by_layer[layer]) for layer in want.pooled},
            {layer: self._places(layer, by_layer[layer]) for layer in want.patches},
        )

    def _pooled(self, layer: int, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C); the norms are the last stage's."""
        if layer < len(self.widths):
            return x.mean(dim=(2, 3))
        plain = isinstance(self.token_norm, nn.Identity)
        pooled = x.mean(dim=(2, 3)) if plain else self._places(layer, x).mean(dim=1)
        return _over_channels(self.pooled_norm, pooled)

    def _places(self, layer: int, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, H · W, C)."""
        places = x.flatten(2).transpose(1, 2)
        return places if layer < len(self.widths) else _over_channels(self.token_norm, places)

    def _norm_or_identity(self, owner: nn.Module | None) -> nn.Module:
        """Its `norm`, where that is one of the last stage's channels."""
        norm: Any = getattr(owner, "norm", None)
        fits = isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (self.widths[-1],)
        return norm if fits else nn.Identity()


def _over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """A stage's LayerNorm, which may be made for maps, of features whose channels come last."""
    if not isinstance(norm, nn.LayerNorm):
        return x
    return nn.functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
