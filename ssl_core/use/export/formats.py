"""Which formats there are; each is a module that can write one and have its own library read it again."""

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast

from PIL import Image
from torch import Tensor

from ssl_core.errors import InputError
from ssl_core.use.export.exported import Exported

FORMATS = {"timm": "timm_folder", "hf": "hugging_face", "onnx": "onnx_file", "torch": "torch_program"}


class Format(Protocol):
    """A module that knows a format.

    Attributes:
        LIBRARIES: what must be installed for it.
        reader: a folder → how its library makes of an image what the model takes; None where it has no word for that.
    """

    LIBRARIES: tuple[str, ...]
    reader: Callable[[Path], Callable[[Image.Image], Tensor]] | None

    def check(self, exported: Exported) -> None:
        """Whether it can hold this encoder.

        Raises:
            InputError: it cannot.
        """

    def write(self, exported: Exported, folder: Path) -> None:
        """Fill an empty folder."""

    def read(self, folder: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Normalised images (N, C, H, W) → pooled (N, D) and patches (N, P, D), by its own library."""
        ...

    def usage(self, exported: Exported, folder: str) -> str:
        """Python that takes features from it."""
        ...


def load_format(name: str) -> Format:
    """The module of a format.

    Raises:
        InputError: there is none of this name, or it wants what is not installed.
    """
    if name not in FORMATS:
        raise InputError(f"--format: expected one of {', '.join(FORMATS)} (given: {name})")
    found = cast(Format, importlib.import_module(f"ssl_core.use.export.{FORMATS[name]}"))
    missing = [library for library in found.LIBRARIES if find_spec(library) is None]
    if missing:
        raise InputError(f"--format {name} needs {', '.join(missing)}: pip install 'strata-ssl[export]'")
    return found
