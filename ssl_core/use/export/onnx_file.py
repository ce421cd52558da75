"""`model.onnx`, for onnxruntime and all that reads ONNX: images → pooled and patches, for any number of images."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ssl_core.use.export.exported import Exported, Features
from ssl_core.use.export.torch_program import PREPROCESS, check, example, write_preprocessing

__all__ = ["FILE", "LIBRARIES", "check", "read", "usage", "write"]

LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
FILE = "model.onnx"


def write(exported: Exported, folder: Path) -> None:
    """Fill the folder with the network and what its images are to look like."""
    for library in ("onnxscript", "onnx_ir", "torch.onnx"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Features(exported.encoder).eval(),
            (example(exported),),
            str(folder / FILE),
            dynamo=True,
            input_names=["images"],
            output_names=["pooled", "patches"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
            verbose=False,
        )
    write_preprocessing(exported, folder)


def read(folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Images → pooled and patches, as onnxruntime gives them."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])

    def look(images: Tensor) -> tuple[Tensor, Tensor]:
        pooled, patches = session.run(["pooled", "patches"], {"images": images.numpy()})
        return torch.from_numpy(pooled), torch.from_numpy(patches)

    return look


reader = None
"""How an image is to be prepared is written down; ONNX has no word for it."""


def usage(exported: Exported, folder: str) -> str:
    """Python that takes features from it."""
    channels, size = exported.backbone.channels, exported.backbone.image_size
    return f'''import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{folder}/{FILE}")
images = np.zeros((2, {channels}, {size}, {size}), np.float32)  # prepared as {PREPROCESS} says
# (2, {exported.dim}) and (2, P, {exported.dim}):
pooled, patches = session.run(["pooled", "patches"], {{"images": images}})
'''
