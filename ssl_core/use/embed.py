"""Features of any number of images, as Parquet: shard after shard, each of which is whole or not there.

As many images as a shard holds are one file, `X.parquet`; more are a folder of files, `X/part-00000.parquet` and so on,
and what is there is not made again. Broken images are left out, and named in the metadata of the file.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssl_core.data.loading import EVAL_BATCH
from ssl_core.data.sources.base import BrokenImage, Source, read_image
from ssl_core.data.views import CentreView, normalise, to_channels, to_tensor
from ssl_core.errors import DataError, InputError
from ssl_core.files import is_file, write_atomically
from ssl_core.networks.layers import Want
from ssl_core.use.subject import Subject

SHARD_BYTES = 256 << 20  # of features in a file
MOST_ROWS = 100_000  # images in a file
META = b"strata"  # the key of a file's metadata that says what is in it
ABOUT = "_about.json"  # in a folder of shards: the same; readers of such folders pass over a name with _ first
Told = Callable[[int], None]
"""Hears how many more images are done."""


@dataclass(frozen=True)
class About:
    """What features are of: two outputs with the same are the same.

    Attributes:
        weights: SHA-256 of the encoder's.
        images: how many, broken ones too.
        layers: from 1.
        half: float16 instead of float32.
        rows: images of a shard.
    """

    model: str
    weights: str
    image_size: int
    data: str
    images: int
    layers: tuple[int, ...]
    half: bool
    rows: int

    @property
    def shards(self) -> int:
        return -(-self.images // self.rows)

    def span(self, shard: int) -> range:
        """Indices of a shard's images."""
        return range(shard * self.rows, min((shard + 1) * self.rows, self.images))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "layers": list(self.layers)}


def describe(subject: Subject, source: Source, layers: Sequence[int], half: bool, rows: int | None = None) -> About:
    """What the features of a source's images will be of.

    Args:
        rows: images of a shard; default: as many as take 256 MiB.
    """
    config = subject.config
    width = sum(subject.encoder.widths[layer - 1] for layer in layers) * (2 if half else 4)
    fitting = min(max(1, SHARD_BYTES // width), MOST_ROWS)
    return About(
        config.backbone.name,
        subject.digest,
        config.backbone.image_size,
        json.dumps(config.data.train),
        len(source),
        tuple(layers),
        half,
        rows or fitting,
    )


class Output:
    """Where features go, and what of them is there.

    Args:
        path: `X.parquet`.
        shared: several processes write: a folder of shards in any case.

    Raises:
        InputError: something else is there.
    """

    def __init__(self, path: Path, about: About, shared: bool = False):
        if path.suffix != ".parquet":
            raise InputError(f"--output: expected a name that ends in .parquet (given: {path})")
        self.file, self.folder = path, path.with_suffix("")
        known = self._known()
        if known is not None:
            # How many images are in a shard is as it was begun with.
            same = {**about.to_json(), "rows": known.get("rows", about.rows)}
            if known != same:
                different = sorted(key for key in same if known.get(key) != same[key])
                raise InputError(
                    f"--output: {path} has features of something else (other {', '.join(different)}); choose another "
                    "name, or remove it"
                )
            about = About(**{**known, "layers": tuple(known["layers"])})
        self.about = about
        self.single = is_file(self.file) or (known is None and about.shards <= 1 and not shared)

    def _known(self) -> dict[str, Any] | None:
        """What the features that are there are of."""
        if is_file(self.file):
            return _about_of(self.file)
        note = self.folder / ABOUT
        if is_file(note):
            return json.loads(note.read_text())
        if self.folder.is_dir() and any(self.folder.iterdir()):
            raise InputError(f"--output: {self.folder} holds something else than features; choose another name")
        return None

    @property
    def place(self) -> Path:
        """What to look for afterwards."""
        return self.file if self.single else self.folder

    def begin(self) -> None:
        """Make room for it."""
        if self.single:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.about.to_json(), indent=2)
        write_atomically(self.folder / ABOUT, lambda file: file.write(text.encode()))

    def part(self, shard: int) -> Path:
        """The file of a shard."""
        return self.file if self.single else self.folder / f"part-{shard:05d}.parquet"

    @property
    def missing(self) -> list[int]:
        """Shards that are not there yet."""
        return [shard for shard in range(self.about.shards) if not is_file(self.part(shard))]

    def broken(self) -> list[str]:
        """The images that were left out."""
        return [name for n in range(self.about.shards) for name in json.loads(_metadata(self.part(n))[b"broken"])]


def _metadata(file: Path) -> dict[bytes, bytes]:
    try:
        with file.open("rb") as opened:
            return pq.read_schema(opened).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"--output: {file} is there already, and no Parquet file: {error}") from error


def _about_of(file: Path) -> dict[str, Any]:
    found = _metadata(file)
    if META not in found:
        raise InputError(f"--output: {file} is there already, and not of strata embed; choose another name")
    return json.loads(found[META])


@dataclass
class _Item:
    """An image of a shard, or why there is none."""

    index: int
    pixels: Tensor | None
    broken: bool = False
    error: str = ""


class _Images(Dataset):
    """index → the fixed crop of an image; what cannot be decoded is said, and nothing stands in for it."""

    def __init__(self, source: Source, image_size: int, channels: int):
        self.source, self.channels, self.view = source, channels, CentreView(image_size)

    def __getitem__(self, index: int) -> _Item:
        try:
            image = read_image(self.source, index, lambda image: self.view(to_channels(image, self.channels)))
        except BrokenImage:
            return _Item(index, None, broken=True)
        except DataError as error:
            return _Item(index, None, error=str(error))
        return _Item(index, to_tensor(image))


def _as_they_are(items: list[_Item]) -> list[_Item]:
    return items


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _batches(subject: Subject, source: Source, span: Sequence[int], loaders: int) -> Iterator[list[_Item]]:
    backbone = subject.config.backbone
    yield from DataLoader(
        _Images(source, backbone.image_size, backbone.channels),
        sampler=span,
        batch_size=EVAL_BATCH,
        num_workers=loaders,
        collate_fn=_as_they_are,
        worker_init_fn=_one_thread,
    )


def write_shard(subject: Subject, source: Source, output: Output, shard: int, loaders: int, tell: Told) -> None:
    """Look at a shard's images, and write its file.

    Raises:
        DataError: the system does not let an image be read.
    """
    about = output.about
    device = next(subject.encoder.parameters()).device
    features: dict[int, list[Tensor]] = {layer: [] for layer in about.layers}
    ids: list[int] = []
    broken: list[int] = []
    for items in _batches(subject, source, about.span(shard), loaders):
        for item in items:
            if item.error:
                raise DataError(item.error)
        whole = [item for item in items if item.pixels is not None]
        broken += [item.index for item in items if item.broken]
        if whole:
            images = normalise(torch.stack([item.pixels for item in whole if item.pixels is not None]).to(device))
            found = subject.look(images, Want(pooled=about.layers)).pooled
            for layer, x in found.items():
                features[layer].append(x.cpu().to(torch.float16 if about.half else torch.float32))
            ids += [item.index for item in whole]
        tell(len(items))
    table = _table(subject, source, about, ids, broken, features)
    write_atomically(output.part(shard), lambda file: pq.write_table(table, file))


def _table(
    subject: Subject,
    source: Source,
    about: About,
    ids: list[int],
    broken: list[int],
    features: dict[int, list[Tensor]],
) -> pa.Table:
    """`id`, `file`, `label` where there are labels, and a column of features a layer."""
    columns: dict[str, pa.Array] = {
        "id": pa.array(ids, pa.int64()),
        "file": pa.array([_name(source, index) for index in ids], pa.string()),
    }
    if source.labels is not None:
        names = [source.classes[label] if label >= 0 else None for label in source.labels[ids]]
        columns["label"] = pa.array([None if name is None else str(name) for name in names], pa.string())
    kind = pa.float16() if about.half else pa.float32()
    for layer, parts in features.items():
        width = subject.encoder.widths[layer - 1]
        flat: Any = torch.cat(parts).flatten().numpy() if parts else []
        name = "features" if len(features) == 1 else f"layer_{layer:02d}"
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat, kind), width)
    named = json.dumps([_name(source, index) for index in broken])
    return pa.table(columns).replace_schema_metadata({META: json.dumps(about.to_json()), "broken": named})


def _name(source: Source, index: int) -> str:
    return os.fsencode(source.where(index)).decode(errors="replace")
