"""`model.pt2`, which `torch.export.load` opens with torch alone: any number of images → pooled and patches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_core.use.export.exported import Exported, Features, preprocessing

LIBRARIES = ("torch",)
FILE = "model.pt2"
PREPROCESS = "preprocess.json"


def check(exported: Exported) -> None:
    """Whatever can be cut can be written down."""


def write(exported: Exported, folder: Path) -> None:
    """Fill the folder with the network and what its images are to look like."""
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Features(exported.encoder).eval(), (example(exported),), dynamic_shapes={"images": {0: batch}}
    )
    torch.export.save(program, folder / FILE)
    write_preprocessing(exported, folder)


def read(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Images → pooled and patches, as torch gives them."""
    model: Any = torch.export.load(folder / FILE).module()

    @torch.no_grad()
    def look(images: Tensor) -> tuple[Tensor, Tensor]:
        return model(images)

    return look


reader = None
"""How an image is to be prepared is written down; torch has no word for it."""


def usage(exported: Exported, folder: str) -> str:
    """Python that takes features from it."""
    channels, size = exported.backbone.channels, exported.backbone.image_size
    return f'''import torch

model = torch.export.load("{folder}/{FILE}").module()
images = torch.zeros(2, {channels}, {size}, {size})  # prepared as {PREPROCESS} says
with torch.no_grad():
    pooled, patches = model(images)  # (2, {exported.dim}), (2, P, {exported.dim})
'''


def example(exported: Exported) -> Tensor:
    """Images to follow the network with: more than one, for one may be a special case."""
    size = exported.backbone.image_size
    return torch.zeros(2, exported.backbone.channels, size, size)


def write_preprocessing(exported: Exported, folder: Path) -> None:
    """A file for those formats that have no word for how an image is prepared."""
    (folder / PREPROCESS).write_text(json.dumps(preprocessing(exported.backbone), indent=2) + "\n")
