"""Which files below a folder are part of a data set."""

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from ssl_core.errors import InputError

OF_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
"""Folders that operating systems and network disks leave behind, beside those that begin with a dot."""
OF_STRATA = "strata-runs"
SWEEP = {"sweep.yaml", "sweep.json"}
CONFIG = "config.yaml"
SECTIONS = ("\ndata:", "\nbackbone:", "\noptim:", "\nevaluation:")
"""What a run's own `config.yaml` has at the beginning of lines."""


def files_below(root: Path) -> list[str]:
    """Regular files at any depth below a folder of this machine, as paths relative to it, in order.

    Links are followed, but no folder is entered twice, and one that can be reached without links is entered so. Left
    out: hidden files and folders, those of operating systems, and Strata's own runs.

    Raises:
        InputError: a folder cannot be listed.
    """
    found: list[str] = []
    entered: set[str] = set()
    folders = deque([("", os.path.realpath(root))])
    links: deque[tuple[str, str]] = deque()
    while folders or links:
        place, real = (folders or links).popleft()
        if real in entered:
            continue
        entered.add(real)
        entries = _listed(os.path.join(root, place))
        if place and _is_of_strata(entries):
            continue
        for entry in entries:
            if is_hidden(entry.name):
                continue
            path = os.path.join(place, entry.name)
            if _is(entry, os.DirEntry.is_dir):
                behind = entry.is_symlink()
                target = os.path.realpath(entry.path) if behind else os.path.join(real, entry.name)
                (links if behind else folders).append((path, target))
            elif _is(entry, os.DirEntry.is_file):
                found.append(path)
    return sorted(found)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no part of a data set."""
    return name.startswith(".") or name in OF_SYSTEMS or name == OF_STRATA


def _listed(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error.strerror}") from error


def _is(entry: os.DirEntry[str], kind: Callable[[os.DirEntry[str]], bool]) -> bool:
    """Whether an entry, or what a link leads to, is of a kind; a link that leads nowhere is of none."""
    try:
        return kind(entry)
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise InputError(f"{entry.path} cannot be looked at: {error.strerror}") from error


def _is_of_strata(entries: Sequence[os.DirEntry[str]]) -> bool:
    """Whether a folder is that of a run or a sweep."""
    files = {entry.name: entry.path for entry in entries}
    if files.keys() >= SWEEP:
        return True
    if CONFIG not in files or not os.path.isfile(files[CONFIG]):
        return False
    text = "\n" + Path(files[CONFIG]).read_text(errors="replace")
    return all(section in text for section in SECTIONS)
