"""An export from an encoder to a checked folder; what differs is not handed out."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ssl_core.data.views import THIN, CentreView, normalise, to_tensor
from ssl_core.errors import InputError
from ssl_core.files import is_local
from ssl_core.use.export.card import card
from ssl_core.use.export.exported import Exported
from ssl_core.use.export.formats import Format, load_format

ABOUT = "export.json"  # in an export's folder: what it is of
TOLERANCE = 1e-4
BATCHES = (1, 16, 32)  # images at once, in turn: the number must not matter


class Refused(RuntimeError):
    """An export gives other features than the encoder does, and was removed."""


@dataclass(frozen=True)
class Difference:
    """How far an export is from the encoder, on real images.

    Attributes:
        images: compared.
        pooled, patches: the largest difference of any value; of features beyond 1, in units of their root mean square.
        cosine: the least between two pooled features of an image, of two patches' features.
        prepared: the largest difference between the images as each side prepares them; None where the format does not.
    """

    images: int
    pooled: float
    patches: float
    cosine: float
    prepared: float | None

    @property
    def largest(self) -> float:
        return max(self.pooled, self.patches, self.prepared or 0.0)

    def __str__(self) -> str:
        prepared = "" if self.prepared is None else f", images as prepared {self.prepared:.1e}"
        return (
            f"on {self.images} images: largest difference {self.pooled:.1e} pooled, {self.patches:.1e} of patches"
            f"{prepared}; least cosine {self.cosine:.6f}"
        )


def check_folder(folder: Path) -> None:
    """Whether an export can be written to a folder.

    Raises:
        InputError: it is on no disk, or holds something else.
    """
    if not is_local(folder):
        raise InputError(f"--output: an export is written to a disk (given: {folder})")
    if not is_export(folder):
        raise InputError(f"--output: {folder} holds something else than an export; choose another folder")


def is_export(folder: Path) -> bool:
    """Whether a folder is an export, or could become one: it is empty or not there."""
    return (folder / ABOUT).is_file() or not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def export(exported: Exported, name: str, folder: Path, images: Sequence[Image.Image]) -> Difference:
    """Write an encoder down, and put it in place when its own library gives the encoder's features with it.

    Args:
        name: of the format.
        folder: where; a former export there makes way.
        images: real ones, grey or RGB as the encoder takes them.

    Raises:
        InputError: the format cannot hold it, or the folder holds something else.
        Refused: it gives other features; nothing is left of it.
    """
    form = load_format(name)
    form.check(exported)
    check_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        draft = Path(place) / folder.name
        draft.mkdir()
        form.write(exported, draft)
        found = compare(exported, form, draft, images)
        if not found.largest <= TOLERANCE:
            raise Refused(
                f"--format {name}: what {form.LIBRARIES[0]} makes of it is not the encoder, {found} (allowed: "
                f"{TOLERANCE:.0e}); it was removed"
            )
        about = {
            "format": name,
            "layer": exported.layer,
            "image_size": exported.backbone.image_size,
            "weights": exported.digest,
            "difference": asdict(found),
        }
        (draft / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        text = card(exported, str(found), partial(form.usage, exported), folder)
        (draft / "README.md").write_text(text)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    return found


def compare(exported: Exported, form: Format, folder: Path, images: Sequence[Image.Image]) -> Difference:
    """How far a written export is from its encoder, in batches of several sizes."""
    look, view = form.read(folder), CentreView(exported.backbone.image_size)
    prepared = torch.stack([normalise(to_tensor(view(image))) for image in images])
    pooled = patches = 0.0
    cosine, start, turn = 1.0, 0, 0
    while start < len(prepared):
        batch = prepared[start : start + BATCHES[turn % len(BATCHES)]]
        start, turn = start + len(batch), turn + 1
        ours, theirs = exported.expected(batch), look(batch)
        pooled = max(pooled, _distance(ours[0], theirs[0]))
        patches = max(patches, _distance(ours[1], theirs[1]))
        cosine = min(cosine, *(float(cosine_similarity(a, b, dim=-1).min()) for a, b in zip(ours, theirs, strict=True)))
    own = None
    if form.reader is not None:
        prepare = form.reader(folder)
        # Of very thin images Strata crops what it needs before it makes it larger: other libraries do not.
        usual = [number for number, image in enumerate(images) if max(image.size) <= THIN * min(image.size)]
        own = max((float((prepare(images[n]) - prepared[n]).abs().max()) for n in usual), default=0.0)
    return Difference(len(images), pooled, patches, cosine, own)


def _distance(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    unit = max(1.0, float(ours.square().mean().sqrt()))
    difference = float((ours - theirs).abs().max()) / unit
    return difference if difference == difference else float("inf")  # NaN is no agreement
