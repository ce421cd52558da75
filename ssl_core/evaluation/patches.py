"""What patches look like to an encoder: their first principal components as colours (DINOv2, Fig. 1), and where the
class token looks in the last block (DINO, Fig. 1)."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from timm.layers import Attention
from torch import Tensor

from ssl_core.data.sources.base import Source
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import chosen
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.networks.blocks import Blocks
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.schema.evaluation import PatchesConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EDGES = (0.01, 0.99)  # quantiles of a component that are its darkest and its brightest


class Patches(Evaluator[PatchesConfig]):
    """Of some images of val, or of train where there is none; all of it on rank 0, when pictures are asked for."""

    def pictures(self) -> dict[str, "Figure"]:
        from ssl_core.pictures.layers import patch_picture

        context = self.context
        split = context.images.measured
        source: Source = getattr(context.images, split)
        layers = tuple(layers_measured(self.config, context.depth))
        shown, tokens, maps = [], {layer: list[Tensor]() for layer in layers}, list[Tensor]()
        indices = np.sort(chosen(source, self.config.images))
        watched = ClassAttention(context.encoder)
        with watched:
            want = Want(patches=tuple(sorted({*layers, context.depth})))
            for _, images, found in context.batches(split, indices, want):
                shown.append(images.cpu())
                maps.extend(watched.taken())
                for layer in layers:
                    tokens[layer].append(found.patches[layer].float().cpu())
        pixels = torch.cat(shown)
        colours = {f"layer {layer}": component_colours(torch.cat(tokens[layer])).numpy() for layer in layers}
        figures = {
            "components": patch_picture(
                pixels, colours, "first three principal components of each layer's patch tokens"
            )
        }
        if maps:
            attention = torch.cat(maps).float()
            heads = {"mean of heads": attention.mean(dim=1)}
            heads |= {f"head {head + 1}": attention[:, head] for head in range(attention.shape[1])}
            panels = {name: _on_grid(x).numpy() for name, x in heads.items()}
            title = "attention of the class token in the last block"
            figures["attention"] = patch_picture(pixels, panels, title)
        return figures


class ClassAttention:
    """Within its `with`, keeps what the class token of the last block attends to, of an encoder that has one.

    timm's fused attention never holds its weights: they are made again, from the queries and keys that it had.
    """

    def __init__(self, encoder: Encoder):
        self._attention, self._found = _last_attention(encoder), list[Tensor]()
        self._prefix = getattr(encoder.model, "num_prefix_tokens", 0)

    def __enter__(self) -> None:
        if self._attention is not None:
            self._hook = self._attention.qkv.register_forward_hook(lambda module, inputs, output: self._keep(output))

    def __exit__(self, *error: object) -> None:
        if self._attention is not None:
            self._hook.remove()

    def taken(self) -> list[Tensor]:
        """What was kept since the last call: (B, heads, patches) each, of which a row sums to at most 1."""
        found, self._found = self._found, []
        return found

    @torch.no_grad()
    def _keep(self, qkv: Tensor) -> None:
        attention = self._attention
        assert attention is not None
        parts = qkv.unflatten(2, (3, attention.num_heads, attention.head_dim)).permute(2, 0, 3, 1, 4)
        query, key = attention.q_norm(parts[0, :, :, :1]), attention.k_norm(parts[1])
        weights = (attention.scale * query @ key.transpose(-2, -1)).softmax(dim=-1)
        self._found.append(weights[:, :, 0, self._prefix :].cpu())


def _last_attention(encoder: Encoder) -> Attention | None:
    """The attention of the last block, where that is timm's own and there is a class token."""
    if not isinstance(encoder.inside, Blocks) or getattr(encoder.model, "cls_token", None) is None:
        return None
    found = getattr(encoder.model.blocks[-1], "attn", None)
    return found if type(found) is Attention else None


def component_colours(patches: Tensor) -> Tensor:
    """The first three principal components of all patches (N, P, D) as red, green and blue: (N, rows, columns, 3).

    They are those of all the images together, so that a colour means the same in each; what there is no component for
    is grey. The sign of a component is that of its largest weight.
    """
    x = patches.flatten(0, 1).double()
    x = x - x.mean(dim=0)
    _, singular, directions = torch.linalg.svd(x.T @ x)
    directions = directions[:3]
    largest = directions.abs().argmax(dim=1, keepdim=True)
    values = x @ (directions * directions.gather(1, largest).sign()).T
    low, high = torch.quantile(values[:: 1 + len(values) // 1_000_000], torch.tensor(EDGES, dtype=x.dtype), dim=0)
    spread = singular[: len(low)] > 1e-12 * singular[0].clamp(min=1e-30)
    scaled = torch.where(spread, (values - low) / (high - low).clamp(min=1e-30), torch.tensor(0.5, dtype=x.dtype))
    if scaled.shape[1] < 3:
        scaled = torch.nn.functional.pad(scaled, (0, 3 - scaled.shape[1]), value=0.5)
    return _on_grid(scaled.clamp(0, 1).float().unflatten(0, patches.shape[:2]))


def _on_grid(x: Tensor) -> Tensor:
    """(N, P, …) → (N, rows, columns, …), of the square images that an encoder sees."""
    side = round(x.shape[1] ** 0.5)
    return x.unflatten(1, (side, side))
