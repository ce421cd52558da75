"""What is to be found for each query image of a retrieval: a JSON file, read to indices of sources."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.data.sources.base import Source
from ssl_core.data.sources.names import SEVERAL, Names
from ssl_core.errors import InputError

KINDS = ("easy", "hard", "junk")
FORM = (
    '{"query.jpg": {"positives": ["a.jpg", …], "junk": […]}, …}, with "easy" and "hard" in the place of "positives" if '
    "they are told apart"
)


@dataclass(frozen=True)
class Truth:
    """What is right for one query. All arrays hold indices into the database, int64, and share none.

    Attributes:
        query: index into the queries.
        easy: images that show the same, plain to see (or all that do, where none is said to be hard).
        hard: those that show it hardly.
        junk: those that are passed over, as if they were not there.
        box: the part of the query image that is meant, (left, top, right, bottom) in pixels; None: all of it.
    """

    query: int
    easy: np.ndarray
    hard: np.ndarray
    junk: np.ndarray
    box: tuple[float, float, float, float] | None = None


def read_ground_truth(path: Path, database: Source, queries: Source) -> list[Truth]:
    """What a JSON file says of each of its queries, in its order.

    Either `{query: {"positives": […], "junk": […]}}`, where `easy` and `hard` may stand for `positives`; or as
    Revisited Oxford and Paris have it (Radenović et al., CVPR 2018), `{"imlist": […], "qimlist": […], "gnd": [{"easy":
    […], "hard": […], "junk": […], "bbx": […]}]}`, with numbers from 0 into `imlist`. Images are named by path below
    their folder, by file name, or without suffix. Queries that the file does not name are left out.

    Raises:
        InputError: it is no such file, or names images that are not there.
    """
    content = _load(path)
    entries = _revisited(path, content) if {"imlist", "qimlist", "gnd"} <= content.keys() else _plain(path, content)
    in_database = _indices(path, [name for _, lists, _ in entries for kind in KINDS for name in lists[kind]], database)
    in_queries = _indices(path, [query for query, _, _ in entries], queries)
    found = []
    for query, lists, box in entries:
        easy, hard, junk = (np.array([in_database[name] for name in lists[kind]], np.int64) for kind in KINDS)
        _check_disjoint(path, query, easy, hard, junk)
        found.append(Truth(in_queries[query], easy, hard, junk, box))
    if not any(len(truth.easy) or len(truth.hard) for truth in found):
        raise InputError(f"{path}: no query has a positive image; expected {FORM}")
    return found


Entry = tuple[str, dict[str, list[str]], tuple[float, float, float, float] | None]
"""A query's name, names of images by kind, and its box."""


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        hint = (
            "; a pickle may hold code, and is not read: write it as JSON" if path.suffix in (".pkl", ".pickle") else ""
        )
        raise InputError(f"{path}: not a JSON file{hint}; expected {FORM}") from error
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path}: expected {FORM}")
    return content


def _plain(path: Path, content: Mapping[str, Any]) -> list[Entry]:
    known = {*KINDS, "positives"}
    entries: list[Entry] = []
    for query, said in content.items():
        if not isinstance(said, dict) or not said or not said.keys() <= known:
            raise InputError(f"{path}: {query}: expected positives, or easy and hard, and junk; the file is {FORM}")
        if "positives" in said and ("easy" in said or "hard" in said):
            raise InputError(f"{path}: {query}: expected either positives, or easy and hard")
        lists = {kind: _names(path, query, kind, said.get(kind, [])) for kind in KINDS}
        lists["easy"] += _names(path, query, "positives", said.get("positives", []))
        entries.append((query, lists, None))
    return entries


def _revisited(path: Path, content: Mapping[str, Any]) -> list[Entry]:
    images, queries = (_names(path, key, key, content[key]) for key in ("imlist", "qimlist"))
    gnd = content["gnd"]
    if not isinstance(gnd, list) or len(gnd) != len(queries):
        raise InputError(f"{path}: gnd: expected a list with an entry for each of the {len(queries)} of qimlist")
    entries: list[Entry] = []
    for query, said in zip(queries, gnd, strict=True):
        if not isinstance(said, dict) or not {"easy", "hard"} & said.keys():
            raise InputError(f"{path}: gnd of {query}: expected easy, hard and junk, lists of numbers into imlist")
        lists = {kind: _numbered(path, query, kind, said.get(kind, []), images) for kind in KINDS}
        entries.append((query, lists, _box(path, query, said.get("bbx"))))
    return entries


def _names(path: Path, query: str, kind: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{path}: {query}: {kind}: expected a list of names")
    return list(value)


def _numbered(path: Path, query: str, kind: str, value: Any, images: Sequence[str]) -> list[str]:
    whole = isinstance(value, list) and all(type(number) is int for number in value)
    if not whole or not all(0 <= number < len(images) for number in value):
        raise InputError(f"{path}: gnd of {query}: {kind}: expected a list of numbers from 0 to {len(images) - 1}")
    return [images[number] for number in value]


def _box(path: Path, query: str, value: Any) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    numbers = isinstance(value, list) and len(value) == 4 and all(type(one) in (int, float) for one in value)
    if not numbers or not (value[0] < value[2] and value[1] < value[3]):
        raise InputError(f"{path}: gnd of {query}: bbx: expected [left, top, right, bottom]")
    return float(value[0]), float(value[1]), float(value[2]), float(value[3])


def _indices(path: Path, names: Sequence[str], source: Source) -> dict[str, int]:
    """The index of each name.

    Raises:
        InputError: one is that of no image, or of several.
    """
    unique, images = list(dict.fromkeys(names)), Names.of(source)
    found = images.find(unique)
    if (found < 0).any():
        wrong = [name for name, index in zip(unique, found.tolist(), strict=True) if index < 0]
        why = "fit several images" if found[found < 0][0] == SEVERAL else "are not there"
        there = ", ".join(map(repr, images.paths[:3]))
        raise InputError(
            f"{path}: {len(wrong)} of {len(unique)} images that it names {why}, such as {wrong[0]!r}; images are "
            f"called {there}, …"
        )
    return dict(zip(unique, found.tolist(), strict=True))


def _check_disjoint(path: Path, query: str, *kinds: np.ndarray) -> None:
    everything = np.concatenate(kinds)
    if len(np.unique(everything)) < len(everything):
        raise InputError(f"{path}: {query}: an image is named twice; each is easy, hard (or positive) or junk")
