"""Files that are whole or not there, on disks and in object stores.

A folder is a `pathlib.Path`, or for a URI (`s3://…`, `gs://…`) a `UPath`, which answers the same calls.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from ssl_core.errors import InputError


def as_path(text: str | Path) -> Path:
    """What a path or URI names; `~` is the user's home.

    Raises:
        InputError: what the URI's store needs is not installed, there is no such user, or the name is not UTF-8.
    """
    if "://" not in str(text):
        return _on_disk(text) if isinstance(text, str) else text
    try:
        from upath import UPath

        # Other processes write there too: what was listed before is not what is there now.
        path = UPath(text, use_listings_cache=False)
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise InputError(f"{text}: {error}; s3:// needs pip install 's3fs', gs:// 'gcsfs', abfs:// 'adlfs'") from error
    return cast(Path, path)  # answers the same calls


def _on_disk(text: str) -> Path:
    if not text.isprintable() and any("\ud800" <= sign <= "\udfff" or sign == "\0" for sign in text):
        raise InputError(f"{text!a}: not a name in UTF-8; give it another, or a link with one")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InputError(f"{text}: there is no such user, or they have no home") from error


def find_beside(name: str, folders: Iterable[Path]) -> Path:
    """A file by its path; a relative one is looked for in `folders` first, then from the working directory."""
    path = as_path(name)
    if is_local(path) and not path.is_absolute():
        return next((folder / path for folder in folders if is_file(folder / path)), path)
    return path


def is_file(path: Path) -> bool:
    """Whether there is such a file; what cannot be a name is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_local(path: Path) -> bool:
    return isinstance(path, Path)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place: readers see the old file or the whole new one.

    Raises:
        OSError: as the file system said it, also where `write` makes another error of it (torch does).
    """
    if not is_local(path):
        _upload(path, write)
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            _fill(file, write)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


class _Telling:
    """A file being written that remembers what its disk said, whatever its writer makes of that."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _fill(file: BinaryIO, write: Callable[[BinaryIO], object]) -> None:
    telling = _Telling(file)
    try:
        write(cast(BinaryIO, telling))
    except Exception as error:
        if telling.error is None or error is telling.error:
            raise
        raise telling.error from error


def _sync_folder(folder: Path) -> None:
    """Let a name that was put into a folder outlive a power cut; some file systems have no such call."""
    with contextlib.suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _upload(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """An object appears when all of it was sent; closing one early would make it of what was."""
    with tempfile.TemporaryFile() as whole:
        _fill(whole, write)
        whole.seek(0)
        with path.open("wb") as file:
            shutil.copyfileobj(whole, file, 1 << 20)


def lock(handle: int, wait: bool = True) -> None:
    """Keep other processes from locking an open file or folder, until it is closed or this process has ended.

    A file system without locks keeps nobody out.

    Raises:
        BlockingIOError: another process has locked it, and is not waited for.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        pass


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
        cast(Any, folder).rmdir(recursive=True)


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
