import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch

from ssl_core import search
from ssl_core.errors import InputError
from ssl_core.positives.neighbors import NeighborIndex, files, saving
from ssl_core.positives.neighbors.files import lists_file, read_epoch, write_epoch
from ssl_core.positives.neighbors.signals import Signals

IMAGES, DIM, BATCH = 61, 12, 9


def epochs_of_steps(epochs: int, seed: int = 0, copies: bool = False) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Steps (ids, features) of a training run that drops its last batch: images move a little, and some are missed."""
    generator = np.random.default_rng(seed)
    features = 3 * generator.standard_normal((IMAGES, DIM)).astype(np.float32)
    if copies:
        features[20:40] = features[20]
    run = []
    for _ in range(epochs):
        noise = generator.standard_normal((IMAGES, DIM)).astype(np.float32)
        noise[20:40] *= not copies
        order = generator.permutation(IMAGES)[: IMAGES // BATCH * BATCH - BATCH].reshape(-1, BATCH)
        run.append([(ids, (features + noise)[ids]) for ids in order])
    return run


def shards_of(count: int, **options) -> list[NeighborIndex]:
    edges = np.linspace(0, IMAGES, count + 1).astype(int)
    options = {"top_k": 4, "window": 2} | options
    return [NeighborIndex(IMAGES, DIM, rows=range(*pair), **options) for pair in itertools.pairwise(edges)]


def run_epoch(shards: list[NeighborIndex], steps: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for ids, features in steps:
        for index in shards:
            index.update(ids, features)
    for index in shards:
        index.end_epoch([shard.partial(index.rows.start, index.rows.stop) for shard in shards])


def results(shards: list[NeighborIndex], seed: int) -> Iterator[np.ndarray]:
    """All that comes out of an index after an epoch, of all images."""
    for parts in (
        [index.lists() for index in shards],
        [index.draw(0.3, seed) for index in shards],
        [(index.nearest(),) for index in shards],
        [index.window.distribution(np.array(index.rows), 0.3)[::2] for index in shards],
    ):
        for arrays in zip(*parts, strict=True):
            if len({array.shape[1:] for array in arrays}) == 1:
                yield np.concatenate(arrays)


def naive_run(run: list, top_k: int, unvisited: str, stale: str) -> Iterator[tuple[list, dict]]:
    """AdaSim's search with a dictionary for a cache: each epoch's answers to its steps, and its lists by image."""
    cache: dict[int, np.ndarray] = {}
    last: dict[int, list[tuple[int, float]]] = {}
    for steps in run:
        answers, lists = [], {}
        for ids, features in steps:
            rows = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
            answer = []
            for row in rows:
                found = [(-float(row @ other), j) for j, other in cache.items()]
                if unvisited == "zeros":
                    found += [(0.0, j) for j in range(IMAGES) if j not in cache]
                answer.append([(j, -negative) for negative, j in sorted(found)[:top_k]])
            answers.append(answer)
            lists |= dict(zip(ids.tolist(), answer, strict=True))
            cache |= dict(zip(ids.tolist(), rows, strict=True))
        if stale == "repeat":
            lists = {j: [(0, 0.0)] * top_k for j in range(IMAGES)} | last | lists
        last = lists
        yield answers, lists


def check(ids: np.ndarray, similarities: np.ndarray, expected: list[tuple[int, float]]) -> None:
    absent = len(ids) - len(expected)
    assert ids.tolist() == [j for j, _ in expected] + [-1] * absent
    np.testing.assert_allclose(similarities, [s for _, s in expected] + [0.0] * absent, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unvisited", ["skip", "zeros"])
@pytest.mark.parametrize("stale", ["drop", "repeat"])
@pytest.mark.parametrize("top_k", [4, 70], ids=["", "K > N"])
def test_searches_the_cache_as_it_was_before_the_step(unvisited: str, stale: str, top_k: int):
    run = epochs_of_steps(3)
    missed = [set(range(IMAGES)) - {j for ids, _ in steps for j in ids.tolist()} for steps in run]
    assert missed[0] & missed[1], "some image must be new in the third epoch"
    index = NeighborIndex(IMAGES, DIM, top_k=top_k, window=2, unvisited=unvisited, stale=stale)
    for steps, (answers, lists) in zip(run, naive_run(run, top_k, unvisited, stale), strict=True):
        for (ids, features), answer in zip(steps, answers, strict=True):
            found = index.update(torch.from_numpy(ids), torch.from_numpy(features))
            assert [array.dtype for array in found] == [np.int32, np.float32]
            for *got, expected in zip(*found, answer, strict=True):
                check(*got, expected)
        index.end_epoch()
        for image, (ids, similarities) in enumerate(zip(*index.lists(), strict=True)):
            check(ids, similarities, lists.get(image, []))
    assert index.epoch == 3
    index.draw(0.2, 0)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("options", [{}, {"unvisited": "zeros", "stale": "repeat"}], ids=["default", "as published"])
def test_shards_give_the_same_bits(options: dict, copies: bool):
    groups = [shards_of(count, **options) for count in (1, 2, 4)]
    for epoch, steps in enumerate(epochs_of_steps(4, copies=copies)):
        for shards in groups:
            run_epoch(shards, steps)
        whole, *divided = [list(results(shards, epoch)) for shards in groups]
        for others in divided:
            for array, other in zip(whole, others, strict=True):
                np.testing.assert_array_equal(array, other)
        for name in ("self_similarity", "spread"):
            totals = [np.sum([getattr(index.signals, name) for index in shards], axis=0) for shards in groups]
            np.testing.assert_allclose(totals[1:], [totals[0]] * 2, rtol=1e-12)
    gate = groups[0][0].draw(0.3, 0).gate
    assert gate.any()
    assert not gate.all()


def test_a_draw_depends_on_its_seed():
    (index,) = shards_of(1)
    for steps in epochs_of_steps(2):
        run_epoch([index], steps)
    first, again, other = (index.draw(0.5, seed).partners.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_torch_finds_what_faiss_finds(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("faiss")
    (one,), (other,) = shards_of(1), shards_of(1)
    for epoch, steps in enumerate(epochs_of_steps(2)):
        run_epoch([one], steps)
        with monkeypatch.context() as patch:
            patch.setattr(search, "load_faiss", lambda: None)
            run_epoch([other], steps)
        for array, expected in zip(results([other], epoch), results([one], epoch), strict=True):
            np.testing.assert_array_equal(array, expected)


def test_of_an_id_that_comes_twice_in_a_step_the_last_counts():
    features = np.eye(4, dtype=np.float32)
    index = NeighborIndex(4, 4, top_k=2, window=1)
    index.update(np.arange(3), features[:3])
    index.update([3, 3, 0], features[[1, 2, 0]])
    ids, similarities = index.update([3], features[[2]])
    assert ids.tolist() == [[2, 3]]
    assert similarities.tolist() == [[1, 1]]
    index.update([1, 1], features[[0, 1]])
    index.end_epoch()
    assert index.lists()[0][1, 0] == 1


def test_an_epoch_without_a_step_is_empty():
    (index,) = shards_of(1)
    run_epoch([index], epochs_of_steps(1)[0])
    index.end_epoch()
    assert (index.lists()[0] == -1).all()


def test_figures_of_an_epoch():
    features = np.array([[1, 0], [0, 2], [0.6, 0.8]], dtype=np.float32)
    index = NeighborIndex(4, 2, top_k=2, window=1)
    assert Signals.means([index.signals]) == {}
    index.update([0, 1], features[:2])
    index.end_epoch()
    assert Signals.means([index.signals]) == {}  # nothing was there to be compared with
    index.update([0, 1, 2], features[[2, 1, 2]])
    index.end_epoch()
    assert index.signals.self_similarity == (pytest.approx(0.6 + 1), 2)
    lists = [[0.8, 0.6], [1, 0], [0.8, 0.6]]
    assert index.signals.spread == (pytest.approx(np.std(lists, axis=1).sum(), rel=1e-6), 3)
    assert set(Signals.means([index.signals])) == {"self_similarity", "spread"}


def test_nearest_leaves_out_the_image_itself():
    index = NeighborIndex(4, 4, top_k=3, window=1, rows=range(1, 4))
    with pytest.raises(RuntimeError, match="no epoch is finished"):
        index.nearest()
    lists = np.array([[2, 1, 3], [1, 0, 3], [3, -1, -1]], np.int32)
    index.end_epoch([(lists, np.array([[3, 2, 1], [3, 2, 1], [1, 0, 0]], np.float32), np.ones(3, bool))])
    assert index.nearest().tolist() == [[2, 3], [1, 0], [-1, -1]]
    assert index.nearest().dtype == np.int32


def test_only_one_neighbour_leaves_no_second():
    index = NeighborIndex(2, 2, top_k=1, window=1)
    index.update([0], np.ones((1, 2)))
    index.update([1], np.ones((1, 2)))
    index.end_epoch()
    assert index.nearest().tolist() == [[-1, -1], [0, -1]]


def save(shards: list[NeighborIndex], folder: Path) -> None:
    """As the shards of a run do it: each its rows, and after every epoch one file of all lists."""
    if len(shards) == 1:
        return saving.save(shards[0], folder)
    for index in shards:
        saving.save_cache(index, folder)
    ids, similarities = (np.concatenate(arrays) for arrays in zip(*(index.lists() for index in shards), strict=True))
    return write_epoch(folder, shards[0].epoch, ids, similarities)


@pytest.mark.parametrize(("saved", "loaded"), [(1, 1), (1, 3), (3, 1), (2, 4)])
@pytest.mark.parametrize("finished", [1, 3])
def test_a_loaded_index_goes_on_as_if_never_saved(
    saved: int, loaded: int, finished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "ROW_GROUP", 16)
    options = {"stale": "repeat", "unvisited": "zeros"}
    before, after = shards_of(saved, **options), shards_of(loaded, **options)
    run_epoch(after, epochs_of_steps(1, seed=9)[0])  # something to be forgotten
    run = epochs_of_steps(finished + 2, copies=True)
    for steps in run[:finished]:
        run_epoch(before, steps)
        save(before, tmp_path)
    for index in after:
        saving.load(index, tmp_path, finished)
    assert {index.epoch for index in after} == {finished}
    for epoch, steps in enumerate([[], *run[finished:]]):
        if steps:
            run_epoch(before, steps)
            run_epoch(after, steps)
            for name in ("self_similarity", "spread"):
                totals = [np.sum([getattr(i.signals, name) for i in shards], axis=0) for shards in (before, after)]
                np.testing.assert_allclose(*totals, rtol=1e-12)
        for array, expected in zip(results(after, epoch), results(before, epoch), strict=True):
            np.testing.assert_array_equal(array, expected)


def test_an_epochs_file_is_written_once_and_the_spread_is_known_after_loading(tmp_path: Path):
    (index,), (other,) = shards_of(1), shards_of(1)
    for number, steps in enumerate(epochs_of_steps(3), 1):
        run_epoch([index], steps)
        saving.save(index, tmp_path)
        if number == 1:
            first = lists_file(tmp_path, 1).stat()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"cache_{epoch:04d}" for epoch in (1, 2, 3)),
        *(f"epoch_{epoch:04d}.parquet" for epoch in (1, 2, 3)),
    ]
    assert lists_file(tmp_path, 1).stat() == first
    lists_file(tmp_path, 1).unlink()  # not in the window of 2 any more
    saving.load(other, tmp_path, 3)
    assert other.signals == Signals(spread=index.signals.spread)


def test_files_of_a_run_that_was_cut_off_are_replaced(tmp_path: Path):
    (cut_off,), (index,) = shards_of(1), shards_of(1)
    first, second, other = epochs_of_steps(3)
    run_epoch([cut_off], first)
    saving.save(cut_off, tmp_path)
    saving.load(index, tmp_path, 1)
    run_epoch([cut_off], second)
    saving.save(cut_off, tmp_path)
    run_epoch([index], other)
    saving.save(index, tmp_path)
    np.testing.assert_array_equal(read_epoch(tmp_path, 2, IMAGES, 4, range(IMAGES))[0], index.lists()[0])


def test_half_precision_on_a_gpu_is_saved_as_it_is(tmp_path: Path):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    for dtype in (torch.float16, torch.bfloat16):
        (index,), (other,) = (shards_of(1, device="cuda", dtype=dtype) for _ in range(2))
        run = epochs_of_steps(2)
        run_epoch([index], run[0])
        saving.save(index, tmp_path / str(dtype))
        saving.load(other, tmp_path / str(dtype), 1)
        for shards in ([index], [other]):
            run_epoch(shards, run[1])
        for array, expected in zip(results([other], 0), results([index], 0), strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    (index,) = shards_of(1)
    for steps in epochs_of_steps(2):
        run_epoch([index], steps)
    saving.save(index, tmp_path)
    return tmp_path


def test_only_what_an_index_has_written_is_removed_and_nothing_through_links(saved: Path, tmp_path: Path):
    needed = files.needed_files(saved, 2, 0, window=1)
    partial = saved / "cache_0002" / ".000000000.npy.partial"
    partial.touch()
    theirs = [saved / "notes.txt", saved / "epoch_0001.parquet.bak", saved / "cache_0002" / "mine.npy"]
    theirs += [saved / "other" / "000000000.npy", saved / "home" / "epoch_0001.parquet"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "000000000.npy").touch()
    (saved / "cache_0009").symlink_to(elsewhere)
    link = tmp_path / "link"
    link.symlink_to(saved)
    files.drop_unneeded(link, [])
    files.drop_later(link, 0, 0)
    files.drop_other_parts(link, 2, [7])
    assert all(path.exists() for path in needed)
    assert partial.exists()
    files.drop_later(saved, 2, 0)
    files.drop_unneeded(saved, needed)
    assert all(path.exists() for path in [*theirs, *needed, elsewhere / "000000000.npy"])
    assert not partial.exists()
    assert not lists_file(saved, 1).exists()
    files.drop_unneeded(saved, [])
    assert not any(path.exists() for path in needed)
    assert all(path.exists() for path in theirs)


def load_error(folder: Path, images: int = IMAGES, dim: int = DIM, **options) -> str:
    with pytest.raises(InputError) as caught:
        saving.load(NeighborIndex(images, dim, **{"top_k": 4, "window": 2} | options), folder, 2)
    return str(caught.value)


def test_files_of_another_index_are_refused(saved: Path):
    lists, cache = saved / "epoch_0001.parquet", saved / "cache_0002"
    expected = "expected the neighbour lists of 61 images, 5 each"
    assert load_error(saved, top_k=5) == f"{lists}: lists of 61 images, 4 each; {expected}"
    assert "expected the neighbour lists of 60 images, 4 each" in load_error(saved, images=60)
    part = cache / "000000000.npy"
    expected = "expected the cache of 61 images, 13 numbers each"
    assert load_error(saved, dim=13) == f"{part}: an array of shape (61, 12) for the images from 0 on; {expected}"


def test_missing_and_damaged_files_are_named(saved: Path):
    (saved / "epoch_0002.parquet").write_bytes(b"PAR1 not really")
    assert f"{saved / 'epoch_0002.parquet'}: damaged" in load_error(saved)
    (saved / "epoch_0002.parquet").write_bytes((saved / "epoch_0001.parquet").read_bytes()[:-40])
    assert f"{saved / 'epoch_0002.parquet'}: damaged" in load_error(saved)
    (saved / "epoch_0002.parquet").unlink()
    assert f"{saved / 'epoch_0002.parquet'}: no such file; expected" in load_error(saved)
    (saved / "epoch_0002.parquet").write_bytes((saved / "epoch_0001.parquet").read_bytes())
    part = saved / "cache_0002" / "000000000.npy"
    part.rename(part.with_name("000000005.npy"))
    assert "for the images from 0 on; expected the cache of 61 images" in load_error(saved)
    part.with_name("000000005.npy").rename(part)
    part.write_bytes(part.read_bytes()[:1000])
    assert f"{part}: damaged" in load_error(saved)
    part.unlink()
    assert f"{saved / 'cache_0002'}: parts of 0 images; expected the cache of 61 images" in load_error(saved)
    part.parent.rmdir()
    assert f"{saved / 'cache_0002'}: no such folder" in load_error(saved)


def test_the_lists_of_other_columns_are_refused(saved: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"ids": [1, 2]}), saved / "epoch_0002.parquet")
    assert f"{saved / 'epoch_0002.parquet'}: damaged" in load_error(saved)


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import pyarrow.parquet as pq

    def half(table, file: BinaryIO, **options) -> None:
        file.write(b"PAR1")
        raise OSError("disk full")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(OSError, match="disk full"):
        write_epoch(tmp_path, 1, np.zeros((3, 2), np.int32), np.zeros((3, 2), np.float32))
    assert list(tmp_path.iterdir()) == []


def test_the_rows_of_a_file_are_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "ROW_GROUP", 8)
    ids = np.arange(60, dtype=np.int32).reshape(20, 3)
    write_epoch(tmp_path, 7, ids, ids.astype(np.float32) / 60)
    for rows in (range(20), range(5), range(7, 17), range(16, 20)):
        got = read_epoch(tmp_path, 7, 20, 3, rows)
        np.testing.assert_array_equal(got[0], ids[rows.start : rows.stop])
        np.testing.assert_array_equal(got[1], ids[rows.start : rows.stop].astype(np.float32) / 60)


@pytest.mark.parametrize(("ids", "shape"), [([0, 1], (2, 5)), ([0, 1], (3, DIM)), ([0, IMAGES], (2, DIM))])
def test_a_step_that_does_not_fit_is_refused(ids: list[int], shape: tuple[int, int]):
    (index,) = shards_of(1)
    with pytest.raises(ValueError, match=r"features of shape|ids from"):
        index.update(ids, np.ones(shape))
