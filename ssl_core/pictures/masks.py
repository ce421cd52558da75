"""What a masked run's student sees, and how well it predicts the rest: pictures from the run's checkpoints."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_core import methods
from ssl_core.batch import Batch, Masks
from ssl_core.data.loading import EvalImages
from ssl_core.data.masks import MaskDrawer, draw
from ssl_core.data.sources.base import Source
from ssl_core.data.views import denormalise, normalise
from ssl_core.errors import InputError
from ssl_core.networks.encoder import Encoder
from ssl_core.objectives.patches import PatchPrediction
from ssl_core.objectives.pixels import MAE
from ssl_core.pictures.run import mask_picture, save_figure, some_images
from ssl_core.schema.run import RunConfig
from ssl_core.training.checkpoints import CheckpointStore

GREY = 160  # of what is hidden
MOST_MAPS = 12  # target layers in one picture


def draw_masks(
    config: RunConfig, output: Path, source: Source, target: Path, epoch: int | None = None, images: Sequence[int] = ()
) -> Path:
    """A picture of `images` (default: some, always the same), each under a mask, and of the errors after `epoch`.

    For every target layer an error map; for MAE also the image with what it predicts.

    Args:
        output: the run's folder.
        source: the run's training images.
        epoch: default: that of the newest checkpoint.

    Raises:
        InputError: the run is no masked one, or has no checkpoint of that epoch.
    """
    if config.masked is None:
        raise InputError(f"{output}: {config.method_name} hides nothing; ijepa, mae and bootleg do")
    store = CheckpointStore(output, config)
    path = _checkpoint(store, epoch)
    method = methods.build(config)
    state = store.load(path)
    method.load_state_dict(state["method"])
    method.eval()
    name = config.masked.name
    objective = method.objectives[name]
    assert isinstance(objective, PatchPrediction)
    views = EvalImages(source, config.backbone.image_size, config.backbone.channels)
    chosen = list(images) or some_images(source)
    pixels = torch.cat([views[index].views["global"] for index in chosen])
    masks = draw(MaskDrawer(objective.config.mask, objective.grid, config.seed), state["epoch"], chosen)
    batch = Batch(torch.tensor(chosen), {"global": normalise(pixels)[None]}, {name: masks})
    with torch.no_grad():
        seen = method.look(batch)[name]
    columns = {"image": _picture(pixels), "seen": _picture(_hide(pixels, masks, method.student))}
    if isinstance(objective, MAE):
        columns["predicted"] = _picture(denormalise(objective.reconstruct(seen)))
    maps = objective.error_maps(seen).numpy()
    titles = ["pixels"] if isinstance(objective, MAE) else [f"layer {layer}" for layer in objective.layers]
    errors = {titles[place]: maps[place] for place in _spread(len(titles))}
    title = f"{config.name}, epoch {state['epoch']}: what is hidden, and the loss of its prediction"
    return save_figure(mask_picture(columns, errors, title), target)


def _checkpoint(store: CheckpointStore, epoch: int | None) -> Path:
    there = store.paths()
    if not there:
        raise InputError(f"{store.folder}: no checkpoint in it yet")
    wanted = there[-1] if epoch is None else store.path(epoch)
    if wanted not in there:
        raise InputError(f"--epoch: no checkpoint of {epoch}; there are {', '.join(path.stem for path in there)}")
    return wanted


def _spread(count: int) -> list[int]:
    """At most MOST_MAPS of `count` places, the last among them."""
    return sorted({round(place) for place in np.linspace(count - 1, 0, min(count, MOST_MAPS))})


def _hide(pixels: Tensor, masks: Masks, encoder: Encoder) -> Tensor:
    """`pixels` (B, C, H, W) with all patches grey that are not in the context."""
    (rows, columns), side = encoder.grid, encoder.patch_size
    seen = torch.zeros(len(pixels), rows * columns, dtype=torch.bool).scatter_(1, masks.context, True)
    seen = seen.view(-1, 1, rows, columns).repeat_interleave(side, dim=2).repeat_interleave(side, dim=3)
    return pixels.where(seen, torch.tensor(GREY, dtype=torch.uint8))


def _picture(pixels: Tensor) -> np.ndarray:
    """(B, C, H, W) → (B, H, W, 3)."""
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
