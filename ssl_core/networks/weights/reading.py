"""What a file of weights holds, read without executing anything in it; a hub's weights, where a hub is named."""

import argparse
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ssl_core.errors import InputError
from ssl_core.files import as_path, is_file, local_copy

HUBS = ("timm:", "hf-hub:")
RUN_FILE = "model.safetensors"  # in a run's folder
HEAD = 64  # bytes that tell text from weights
LFS = b"version https://git-lfs"
HARMLESS: list[Any] = [argparse.Namespace]
"""Values by name: the settings that DINO, iBOT and MAE keep beside their weights."""


def is_hub(where: str) -> bool:
    """Whether it names weights that are downloaded."""
    return where.startswith(HUBS)


def read(where: str) -> Any:
    """What is stored there: tensors by name, or containers of such.

    Args:
        where: a file, a run's folder, `timm:NAME` or `hf-hub:NAME`, which download.

    Raises:
        InputError: nothing is there, it is no file of weights, or it holds more than tensors and plain values.
    """
    return _download(where) if is_hub(where) else _read_file(_file_of(where))


def backbone_of(where: str) -> dict[str, Any]:
    """The `backbone` section that a file of Strata's says it was written with; nothing of other files."""
    if is_hub(where):
        return {}
    file = _file_of(where)
    if file.suffix != ".safetensors":
        return {}
    try:
        with local_copy(file) as local, safe_open(local, "pt") as found:
            said = json.loads((found.metadata() or {}).get("backbone", "{}"))
    except (SafetensorError, ValueError, OSError):
        return {}  # whoever reads the weights says what is wrong
    return said if isinstance(said, dict) else {}


def _file_of(where: str) -> Path:
    place = as_path(where)
    if place.is_dir():
        file = place / RUN_FILE
        if file.is_file():
            return file
        what = "the run has not ended" if (place / "config.yaml").is_file() else "no run's folder"
        raise InputError(f"{where}: {what} (there is no {RUN_FILE} in it)")
    if not is_file(place):
        raise InputError(
            f"{where}: no such file or folder (looked from {Path.cwd()}); timm:NAME downloads published weights"
        )
    return place


def _read_file(file: Path) -> Any:
    with local_copy(file) as local:
        try:
            with local.open("rb") as opened:
                head = opened.read(HEAD)
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from error
        if not head:
            raise InputError(f"{file}: an empty file")
        if head.startswith(LFS):
            raise InputError(f"{file}: no weights, but Git LFS's note of where they are; `git lfs pull` fetches them")
        if file.suffix == ".safetensors":
            return _read_safetensors(file, local)
        return _read_torch(file, local, head)


def _read_safetensors(file: Path, local: Path) -> dict[str, Tensor]:
    try:
        return load_file(local)
    except (SafetensorError, ValueError, OSError) as error:
        raise InputError(f"{file}: no safetensors file, or a damaged one: {error}") from error


def _read_torch(file: Path, local: Path, head: bytes) -> Any:
    """Tensors and plain values alone: whatever else a pickle names is refused, not made."""
    if head[:1] != b"\x80" and not zipfile.is_zipfile(local):
        what = "a text file, and no file of weights" if _is_text(head) else "no file of weights"
        raise InputError(f"{file}: {what}; expected what torch.save writes (.pth, .pt), or .safetensors")
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(local, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = str(error).split("GLOBAL ")[-1].split(" ")[0] if "GLOBAL " in str(error) else "something else"
        raise InputError(
            f"{file}: refused, for it holds more than tensors and plain values ({named}), and reading that would run "
            "code; save its tensors alone: torch.save(model.state_dict(), FILE)"
        ) from error
    except Exception as error:  # whatever torch says of a file that is cut off, or of another kind
        raise InputError(f"{file}: no file of weights, or a damaged one: {type(error).__name__}: {error}") from error


def _download(where: str) -> Mapping[str, Tensor]:
    name = where if where.startswith("hf-hub:") else where.removeprefix("timm:")
    try:
        with torch.random.fork_rng(devices=[]):  # the run's own draws stay what they are with a file
            return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # of timm, of the hub's client, of the network
        why = (str(error).strip().splitlines() or [""])[0]
        if type(error).__name__ == "LocalEntryNotFoundError":
            why = "the hub cannot be reached, and it was not downloaded before"
        raise InputError(f"{where}: cannot be downloaded: {type(error).__name__}: {why}") from error


def _is_text(head: bytes) -> bool:
    text = head.decode(errors="ignore")  # a sign may be cut in two at the end
    return len(text.encode()) > len(head) - 4 and all(sign.isprintable() or sign.isspace() for sign in text)
