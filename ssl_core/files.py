"""Files that are whole or not there, on disks and in object stores.

A folder is a `pathlib.Path`, or for a URI (`s3://…`, `gs://…`) a `UPath`, which answers the same calls.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ssl_core.errors import InputError


def as_path(text: str | Path) -> Path:
    """What a path or URI names; `~` is the user's home.

    Raises:
        InputError: what the URI's store needs is not installed.
    """
    if "://" not in str(text):
        return Path(text).expanduser() if isinstance(text, str) else text
    try:
        from upath import UPath

        # Other processes write there too: what was listed before is not what is there now.
        path = UPath(text, use_listings_cache=False)
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise InputError(f"{text}: {error}; s3:// needs pip install 's3fs', gs:// 'gcsfs', abfs:// 'adlfs'") from error
    return path


def is_local(path: Path) -> bool:
    return isinstance(path, Path)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place: readers see the old file or the whole new one."""
    if not is_local(path):
        _upload(path, write)
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _upload(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """An object appears when all of it was sent; closing one early would make it of what was."""
    with tempfile.TemporaryFile() as whole:
        write(whole)
        whole.seek(0)
        with path.open("wb") as file:
            shutil.copyfileobj(whole, file, 1 << 20)


def append(path: Path, line: str) -> None:
    """Add a line to a text file, which is made if need be."""
    with path.open("a") as file:
        file.write(line + "\n")


def sha256(path: Path) -> str:
    """A file's checksum, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove(file: Path) -> None:
    """Remove a file, and its folder if nothing else is in it."""
    file.unlink()
    if is_local(file) and not any(file.parent.iterdir()):
        file.parent.rmdir()


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if is_local(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.rmdir(recursive=True)


def copy(file: Path, target: Path) -> None:
    """Copy a file, as a link where the file system allows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, target)
    except (OSError, TypeError):
        with file.open("rb") as source:
            write_atomically(target, lambda f: shutil.copyfileobj(source, f, 1 << 20))


@contextmanager
def local_copy(file: Path) -> Iterator[Path]:
    """The file, for those who can only read from disks."""
    if is_local(file):
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy(file, Path(folder) / file.name)
        yield Path(folder) / file.name
