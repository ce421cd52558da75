"""`strata export`: from what was typed to a checked folder, and what is said of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from orchestrator.errors import WorkFailed
from orchestrator.paths import RUNS
from orchestrator.runs.display import say, warn
from orchestrator.use.layers import chosen_layer
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import BrokenImage, Source, read_image
from ssl_core.data.sources.bundled import DIGITS
from ssl_core.data.views import to_channels
from ssl_core.errors import DataError, InputError
from ssl_core.files import as_path, is_local
from ssl_core.recipes import Setting
from ssl_core.schema.data import DataConfig
from ssl_core.use.export import Exported, Refused, check_folder, export, load_format, prepare
from ssl_core.use.opening import open_subject

COMPARED = 100  # images on which an export is compared with its encoder


@dataclass(frozen=True)
class Wish:
    """What somebody wants exported, as it was typed."""

    what: str
    format: str
    layer: str = "last"
    size: int | None = None
    output: Path | None = None
    words: Sequence[str] = ()


def run(wish: Wish, console: Console) -> Path:
    """Export; returns the folder.

    Raises:
        InputError: something of the wish cannot be.
        WorkFailed: what the format's library makes of it is not the encoder; nothing is left of it.
    """
    load_format(wish.format)
    subject = open_subject(wish.what, _words(wish))
    layer, chosen_by = chosen_layer(subject, wish.layer)
    exported = prepare(subject, layer, chosen_by, wish.size)
    folder = (wish.output or _place(exported, wish.format)).absolute()
    check_folder(folder)
    for remark in subject.remarks:
        warn(console, remark)
    images, source = _some_images(exported, console)
    depth, why = subject.encoder.depth, f" ({chosen_by})" if chosen_by else ""
    say(
        console,
        "[bold]{name}[/bold]: {model} at {size} px, layer {layer} of {depth}{why}, as {format}",
        name=subject.name,
        model=exported.backbone.name,
        size=exported.backbone.image_size,
        layer=layer,
        depth=depth,
        why=why,
        format=wish.format,
    )
    try:
        difference = export(exported, wish.format, folder, images)
    except Refused as error:
        raise WorkFailed(str(error)) from error
    say(console, "compared with the encoder {difference} ({source})", difference=difference, source=source)
    say(console, "it is in {folder}, with README.md, which says how to use it", folder=folder)
    return folder


def _words(wish: Wish) -> list[str | Setting]:
    """The keys that were typed; weights of no run need no images of their own."""
    named = any(word.startswith("data.train=") for word in wish.words)
    if named or as_path(wish.what).is_dir():
        return [*wish.words]
    return [Setting("data.train", DIGITS), *wish.words]


def _place(exported: Exported, name: str) -> Path:
    subject = exported.subject
    layer = f"-layer_{exported.layer:02d}" if exported.is_cut else ""
    if subject.folder is not None and is_local(subject.folder):
        return subject.folder / "export" / f"{name}{layer}"
    return RUNS / f"export-{subject.name}-{name}{layer}"


def _some_images(exported: Exported, console: Console) -> tuple[list[Image.Image], str]:
    """Images that the encoder has to do with, or, where none can be read, the bundled digits; which they are."""
    subject = exported.subject
    try:
        images = open_images(subject.config.data)
        source = images.val or images.train
        found = _read(source, exported.backbone.channels)
        if found:
            return found, f"{'data.val' if source is images.val else 'data.train'}"
        why = "none of its images can be decoded"
    except (InputError, DataError) as error:
        why = str(error)
    warn(console, f"compared on the bundled digits, for its own images cannot be read: {why}")
    digits = open_images(DataConfig(train=DIGITS)).train
    return _read(digits, exported.backbone.channels), "bundled digits"


def _read(source: Source, channels: int) -> list[Image.Image]:
    found = []
    for index in np.unique(np.linspace(0, len(source) - 1, min(COMPARED, len(source))).astype(int)):
        try:
            found.append(read_image(source, int(index), partial(to_channels, channels=channels)))
        except BrokenImage:
            continue
    return found
