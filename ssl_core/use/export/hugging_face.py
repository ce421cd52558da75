"""A folder that transformers opens, with `AutoModel` and `AutoImageProcessor`: it wraps timm's models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ssl_core.use.export import timm_folder
from ssl_core.use.export.exported import Exported

LIBRARIES = ("transformers",)

check, write = timm_folder.check, timm_folder.write


def read(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Images → pooled and patches, as transformers gives them."""
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model: Any = AutoModel.from_pretrained(str(folder), local_files_only=True).eval()
    prefix = getattr(model.timm_model, "num_prefix_tokens", 0)
    norm = timm_folder.pooled_norm_of(model.timm_model)

    @torch.no_grad()
    def look(images: Tensor) -> tuple[Tensor, Tensor]:
        found = model(pixel_values=images)
        last = found.last_hidden_state
        if last.ndim == 4:
            return found.pooler_output, last.flatten(2).transpose(1, 2)
        return found.pooler_output, norm(last[:, prefix:])

    return look


def reader(folder: Path) -> Callable[[Image.Image], Tensor]:
    """An image → what the model takes, as transformers makes it."""
    from transformers import AutoImageProcessor

    processor: Any = AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)

    def to_tensor(image: Image.Image) -> Tensor:
        return processor(image)["pixel_values"][0]

    return to_tensor


def usage(exported: Exported, folder: str) -> str:
    """Python that takes features from it."""
    convert = "L" if exported.backbone.channels == 1 else "RGB"
    return f'''import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("{folder}").eval()
images = AutoImageProcessor.from_pretrained("{folder}")(Image.open("IMAGE.png").convert("{convert}"))
with torch.no_grad():
    found = model(**images)
found.pooler_output  # (1, {exported.dim})
found.last_hidden_state
'''
