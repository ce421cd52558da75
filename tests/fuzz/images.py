"""Damages image and Parquet files, reads them as a run does, and counts what comes of it.

A damaged file is read after all, or is a broken image, or (Parquet, before work starts) an error of the input that
names it. Anything else is a fault. Files of a seed are always the same.

    python -m tests.fuzz.images --seconds 180
"""

import argparse
import collections
import io
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, features

from ssl_core.data.loading import EvalImages
from ssl_core.data.sources.base import BrokenImage, read_image
from ssl_core.data.sources.decode import FORMATS
from ssl_core.data.sources.folder import FolderSource
from ssl_core.data.sources.parquet import ParquetSource
from ssl_core.data.views import to_channels
from ssl_core.errors import InputError
from tests.conftest import make_image

OTHERS = ("BLP", "DDS", "EPS", "ICNS", "ICO", "IM", "MSP", "PCX", "SGI", "SPIDER", "TGA", "WMF")
"""Formats that are not decoded: files of them under another's name are broken images."""
MODES = ("RGB", "RGBA", "L", "1", "P", "I;16")


def images() -> Iterator[tuple[str, bytes]]:
    """A format, and a whole file of it; of each format one for each mode that it can hold."""
    picture = make_image(1, size=48)
    for kind in (*FORMATS, *OTHERS):
        for mode in MODES:
            options: dict[str, object] = {"compression": "tiff_lzw"} if kind == "TIFF" else {}
            buffer = io.BytesIO()
            try:
                image = picture.convert("I;16") if mode == "I;16" else picture.convert(mode)
                image.save(buffer, kind, **options)
            except (OSError, KeyError, ValueError):
                continue  # not a mode of this format, or none that this Pillow writes
            yield kind, buffer.getvalue()


def tables(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Parquet of bytes, of structs, and with labels."""
    data = []
    for seed in range(12):
        buffer = io.BytesIO()
        make_image(seed).save(buffer, "PNG")
        data.append(buffer.getvalue())
    struct = [{"bytes": item, "path": f"{number}.png"} for number, item in enumerate(data)]
    for columns in ({"image": data}, {"image": struct}, {"image": data, "label": [number % 3 for number in range(12)]}):
        for compression in ("none", "snappy", "zstd"):
            pq.write_table(pa.table(columns), folder / "whole", row_group_size=5, compression=compression)
            yield "Parquet", (folder / "whole").read_bytes()


def damaged(data: bytes, chance: random.Random) -> bytes:
    """The file with bits turned, bytes overwritten, a part cut out, doubled or zeroed, or its end missing."""
    changed = bytearray(data)
    near_the_start = chance.random() < 0.5
    place = chance.randrange(min(len(data), 128) if near_the_start else len(data))
    length = chance.randint(1, max(1, min(64, len(data) - place)))
    kind = chance.choice(("bits", "noise", "cut", "double", "zero", "ones", "end"))
    if kind == "bits":
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    elif kind == "noise":
        changed[place : place + length] = chance.randbytes(length)
    elif kind == "cut":
        del changed[place : place + length]
    elif kind == "double":
        changed[place:place] = changed[place : place + length]
    elif kind == "zero":
        changed[place : place + length] = bytes(length)
    elif kind == "ones":
        changed[place : place + length] = b"\xff" * length
    else:
        del changed[place:]
    return bytes(changed)


def read_as_image(folder: Path, data: bytes) -> None:
    (folder / "a.png").write_bytes(data)
    source = FolderSource(folder, ["a.png"])
    image = read_image(source, 0, lambda image: to_channels(image, 3))
    EvalImages(source, 16, 3).view(image)


def read_as_parquet(folder: Path, data: bytes) -> None:
    (folder / "a.parquet").write_bytes(data)
    source = ParquetSource([folder / "a.parquet"], "image", "label", 1 << 20)
    for index in range(min(len(source), 12)):
        read_image(source, index, lambda image: to_channels(image, 3))


def fuzz(seed: int, rounds: int | None = None, seconds: float | None = None) -> dict[str, collections.Counter[str]]:
    """For each format how many files came out how: `files`, `read`, `broken`, or the name of a fault."""
    chance = random.Random(seed)
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's words on damaged files
        folder = Path(name)
        whole: list[tuple[str, bytes, Callable[[Path, bytes], None]]]
        whole = [(kind, data, read_as_image) for kind, data in images()]
        whole += [(kind, data, read_as_parquet) for kind, data in tables(folder)]
        done = 0
        while (rounds is None or done < rounds) and (seconds is None or time.monotonic() - began < seconds):
            for kind, data, read in whole:
                found[kind]["files"] += 1
                found[kind][_outcome(read, folder, damaged(data, chance))] += 1
            done += 1
    return dict(found)


def _outcome(read: Callable[[Path, bytes], None], folder: Path, data: bytes) -> str:
    try:
        read(folder, data)
    except (BrokenImage, InputError):
        return "broken"
    except BaseException as error:  # whatever it is, it is what is looked for
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {error}"[:100]
    return "read"


def faults(found: dict[str, collections.Counter[str]]) -> dict[str, collections.Counter[str]]:
    """What is neither read nor broken."""
    usual = ("files", "read", "broken")
    left = {kind: collections.Counter({k: n for k, n in c.items() if k not in usual}) for kind, c in found.items()}
    return {kind: counter for kind, counter in left.items() if counter}


def table(found: dict[str, collections.Counter[str]]) -> str:
    """A Markdown table."""
    lines = ["| format | files | read | broken | anything else |", "|---|---|---|---|---|"]
    for kind, counter in found.items():
        other = counter["files"] - counter["read"] - counter["broken"]
        lines.append(f"| {kind} | {counter['files']:,} | {counter['read']:,} | {counter['broken']:,} | {other:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=180.0)
    given = parser.parse_args()
    found = fuzz(given.seed, seconds=given.seconds)
    print(table(found))
    print(f"Pillow {Image.__version__}, pyarrow {pa.__version__}, AVIF: {features.check('avif')}")
    for kind, counter in faults(found).items():
        for said, count in counter.most_common():
            print(f"fault: {kind}: {count} × {said}")
    raise SystemExit(bool(faults(found)))


if __name__ == "__main__":
    main()
