"""The neighbour index against numbers made by running AdaSim's published code (`golden/README.md`, adasim_*).

Every such file in the folder named by STRATA_GOLDEN is read; the default is `tests/golden`.
"""

import itertools
from pathlib import Path

import numpy as np
import pytest

from ssl_core.neighbors import NeighborIndex
from ssl_core.neighbors.files import read_cache
from ssl_core.neighbors.search import ranked
from ssl_core.neighbors.window import sum_by_id
from tests.test_golden import FOLDER, every

FILES = sorted(FOLDER.glob("adasim_*.npz"))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
STORED = ("dist_ids", "dist_sums", "dist_probs", "union_ids", "union_mean", "union_probs")


def test_the_folder_has_vectors():
    assert FILES, f"no adasim_*.npz in {FOLDER}"


def option(data: np.lib.npyio.NpzFile, name: str, default: str) -> str:
    return str(data[name]) if name in data else default


def features_of(data: np.lib.npyio.NpzFile, file: Path, epoch: int, ids: np.ndarray) -> np.ndarray:
    """What stands for each image: its first view, or the mean of both, each of unit length."""
    views = data["feats_raw"][epoch, ids]
    if option(data, "nn_rep_type", "mean" if "mean" in file.stem.split("_") else "first") == "first":
        return views[:, 0]
    return (views / np.linalg.norm(views, axis=-1, keepdims=True)).mean(1)


def make_shards(data: np.lib.npyio.NpzFile, shards: int, support: str) -> list[NeighborIndex]:
    edges = np.linspace(0, int(data["N"]), shards + 1).astype(int)
    options = {"top_k": int(data["K"]), "window": int(data["w"]), "support": support}
    options |= {"unvisited": option(data, "unvisited", "zeros"), "stale": option(data, "stale", "repeat")}
    return [
        NeighborIndex(int(data["N"]), int(data["d"]), rows=range(start, stop), **options)
        for start, stop in itertools.pairwise(edges)
    ]


def joined(parts: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def same_ids(ids: np.ndarray, expected: np.ndarray, portable: np.ndarray) -> None:
    np.testing.assert_array_equal(ids[portable], expected[portable])


@every(FILES)
@pytest.mark.parametrize("shards", [1, 2, 3])
def test_lists_cache_gates_and_distributions(file: Path, shards: int, tmp_path: Path):
    data = np.load(file)
    images, top_k, dim = int(data["N"]), int(data["K"]), int(data["d"])
    topk, union = (make_shards(data, shards, support) for support in ("topk", "union"))
    for epoch, (ids_of_window, sims_of_window) in enumerate(zip(data["win_ids"], data["win_sims"], strict=True)):
        portable = data["win_ids_portable"][epoch]
        for step in range(data["order"].shape[2]):
            visited = np.concatenate(data["order"][:, epoch, step])
            features = features_of(data, file, epoch, visited)
            found = [index.update(visited, features) for index in [*topk, *union]][:shards]
            ids, sims = ranked(*(np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True)), top_k)
            same_ids(ids, np.concatenate(data["step_topk_ids"][:, epoch, step]), portable[visited, -1])
            np.testing.assert_allclose(sims, np.concatenate(data["step_topk_sims"][:, epoch, step]), **CLOSE)
        for group in (topk, union):
            for index in group:
                index.end_epoch([shard.partial(index.rows.start, index.rows.stop) for shard in group])
        ids, sims = joined([index.lists() for index in topk])
        same_ids(ids, ids_of_window[:, -1], portable[:, -1])
        np.testing.assert_allclose(sims, sims_of_window[:, -1], **CLOSE)

        for index in topk:
            index.save_cache(tmp_path)
        cache = np.concatenate(list(read_cache(tmp_path, epoch + 1, images, dim, range(images))))
        np.testing.assert_allclose(np.nan_to_num(cache), data["cache_after_epoch"][epoch], **CLOSE)

        partners, gate = joined([index.draw(0.2, seed=epoch) for index in topk])
        np.testing.assert_array_equal(partners[~gate], np.flatnonzero(~gate))
        use = epoch + 1 - int(data["w"])
        if use < 0:
            assert not gate.any()
            continue
        kept = data["dist_portable"][use]
        same_ids(gate, data["gate"][use], kept)
        clear = portable.reshape(images, -1).all(1)  # no list in the window hangs on a tie
        for tau in data["taus"]:
            stored = {name: data[f"{name}_tau{tau:g}"][use] for name in STORED}
            check_topk(topk, tau, stored, kept)
            check_union(union, tau, stored, clear)


def check_topk(shards: list[NeighborIndex], tau: float, stored: dict[str, np.ndarray], rows: np.ndarray) -> None:
    for index in shards:
        for row in filter(rows.__getitem__, index.rows):
            (ids,), (probabilities,), _ = index.distribution([row], tau)
            expected = stored["dist_ids"][row]
            expected = expected[expected >= 0]
            np.testing.assert_array_equal(ids, expected)
            np.testing.assert_allclose(probabilities, stored["dist_probs"][row, : len(ids)], **CLOSE)
            sums = sums_of(index, row)
            np.testing.assert_allclose([sums[i] for i in ids], stored["dist_sums"][row, : len(ids)], **CLOSE)


def check_union(shards: list[NeighborIndex], tau: float, stored: dict[str, np.ndarray], rows: np.ndarray) -> None:
    for index in shards:
        for row in filter(rows.__getitem__, index.rows):
            (ids,), (probabilities,), _ = index.distribution([row], tau)
            there = stored["union_ids"][row] >= 0
            expected = dict(zip(stored["union_ids"][row][there], stored["union_probs"][row][there], strict=True))
            assert dict(zip(ids, probabilities, strict=True)) == pytest.approx(expected, rel=1e-5, abs=1e-5)
            means = dict(zip(stored["union_ids"][row][there], stored["union_mean"][row][there], strict=True))
            sums = {id_: total / index.window.size for id_, total in sums_of(index, row).items()}
            assert sums == pytest.approx(means, rel=1e-5, abs=1e-5)


def sums_of(index: NeighborIndex, image: int) -> dict[int, float]:
    row = slice(image - index.rows.start, image - index.rows.start + 1)
    ids, sums = sum_by_id([(ids[row], sims[row]) for ids, sims in index.window.epochs])
    return dict(zip(ids[0], sums[0], strict=True))
