import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core import search
from ssl_core.errors import InputError
from ssl_core.positives.neighbors import NeighborIndex, ivf, saving
from ssl_core.positives.neighbors.signals import Signals
from ssl_core.search import inner, nearest, ranked


def unit(rows: int, dim: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def lists_of(queries: Tensor, bank: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Without any search: every inner product, sorted by Python."""
    products = inner(queries[:, None], bank[None]).numpy()
    order = [sorted(range(len(bank)), key=lambda row, sims=sims: (-sims[row], row))[:k] for sims in products]
    return np.array(order), np.take_along_axis(products, np.array(order), 1)


def same(lists: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for array, wanted in zip(lists, expected, strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_ranked_sorts_by_similarity_then_id_and_pads():
    ids = np.array([[7, 3, -1, 9, 2, 2_000_000_000], [-1, -1, -1, -1, -1, 4]])
    similarities = np.array([[-0.5, 0.25, 0.0, 0.25, -0.75, 0.0], [0, 0, 0, 0, 0, -1]], dtype=np.float32)
    got = ranked(ids, similarities, 4)
    assert got[0].tolist() == [[3, 9, 2_000_000_000, 7], [4, -1, -1, -1]]
    assert got[1].tolist() == [[0.25, 0.25, 0.0, -0.5], [-1, 0, 0, 0]]
    assert ranked(ids, similarities, 8)[0][0].tolist() == [3, 9, 2_000_000_000, 7, 2, -1, -1, -1]


def test_negative_zero_is_zero():
    ids, _ = ranked(np.array([[5, 4]]), np.array([[0.0, -0.0]], dtype=np.float32), 2)
    assert ids.tolist() == [[4, 5]]


@pytest.mark.parametrize("dim", [1, 2, 7, 384])
def test_inner_products_have_the_same_bits_in_any_batch(dim: int):
    a, b = unit(50, dim), unit(50, dim, seed=1)
    one_by_one = torch.stack([inner(x, y) for x, y in zip(a, b, strict=True)])
    assert torch.equal(inner(a, b), one_by_one)
    torch.testing.assert_close(one_by_one, (a.double() * b.double()).sum(1).float())


@pytest.mark.parametrize("faiss", [True, False], ids=["faiss", "torch"])
@pytest.mark.parametrize("copies", [1, 40], ids=["distinct", "copies"])
def test_lists_are_exact_to_the_bit_in_any_order_of_rows(copies: int, faiss: bool, monkeypatch: pytest.MonkeyPatch):
    if faiss:
        pytest.importorskip("faiss")
        monkeypatch.setattr(search, "TILE", (8, 100))
    else:
        monkeypatch.setattr(search, "load_faiss", lambda: None)
        monkeypatch.setattr(search, "BLOCK", 100)
    queries, bank = unit(30, 24), unit(400, 24, seed=1)
    bank[5 : 5 + copies] = bank[200]  # more rows alike than a list is long
    queries[0] = bank[200]
    expected = lists_of(queries, bank, 5)
    assert (expected[1][0] == expected[1][0][0]).all() == (copies > 1)
    generator = np.random.default_rng(0)
    for _ in range(5):
        order = generator.permutation(len(bank))
        same(nearest(queries, bank[order], order, 5), expected)
        halves = [nearest(queries, bank[half], half, 5) for half in (order[:150], order[150:])]
        ids, similarities = (np.concatenate(arrays, axis=1) for arrays in zip(*halves, strict=True))
        same(ranked(ids, similarities, 5), expected)


def test_a_crowd_of_equal_rows_is_searched_further_up_to_a_bound(monkeypatch: pytest.MonkeyPatch):
    bank = unit(1, 8).repeat(600, 1)
    reaches = []

    def counted(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
        reaches.append((len(queries), k))
        return top_k(queries, bank, k)

    top_k = search.top_k
    monkeypatch.setattr(search, "top_k", counted)
    ids, similarities = nearest(bank[:2], bank, np.arange(600), 3)
    assert reaches == [(2, 9), (2, 144), (2, 600)]
    assert ids.tolist() == [[0, 1, 2]] * 2
    np.testing.assert_allclose(similarities, 1, rtol=1e-6)
    reaches.clear()
    monkeypatch.setattr(search, "EFFORT", 300)
    nearest(bank[:2], bank, np.arange(600), 3)
    assert reaches == [(2, 9), (2, 144)]


def test_lists_of_few_rows_are_padded():
    bank = unit(2, 4)
    ids, similarities = nearest(bank, bank, np.array([7, 3]), 4)
    assert ids.tolist() == [[7, 3, -1, -1], [3, 7, -1, -1]]
    assert (similarities[:, 2:] == 0).all()
    ids, similarities = nearest(bank, bank[:0], np.array([], dtype=int), 3)
    assert (ids == -1).all()
    assert ids.shape == similarities.shape == (2, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("faiss", [True, False], ids=["faiss", "torch"])
def test_a_gpu_finds_the_same_to_the_bit(dtype: torch.dtype, faiss: bool, monkeypatch: pytest.MonkeyPatch):
    if not faiss:
        monkeypatch.setattr(search, "_gpu_resources", lambda device: None)
    elif search._gpu_resources(torch.device("cuda")) is None:
        pytest.skip("FAISS without GPUs")
    queries, bank = unit(64, 96).to(dtype), unit(5000, 96, seed=1).to(dtype)
    same(nearest(queries.cuda(), bank.cuda(), np.arange(5000), 10), nearest(queries, bank, np.arange(5000), 10))


def run_epochs(index: NeighborIndex, epochs: int, batch: int = 50) -> list[float | None]:
    """Features of a slowly moving cloud, through the index; the recall of each epoch."""
    features, recalls = unit(index.num_images, index.dim), []
    for epoch in range(epochs):
        features = F.normalize(features + 0.2 * unit(*features.shape, seed=epoch + 1), dim=1)
        order = np.random.default_rng(epoch).permutation(index.num_images)
        for start in range(0, index.num_images, batch):
            ids = order[start : start + batch]
            index.update(ids, features[ids])
        index.end_epoch()
        recalls.append(Signals.means([index.signals]).get("recall"))
    return recalls


def test_approximate_search_reports_its_recall():
    pytest.importorskip("faiss")
    few, many, every = (
        NeighborIndex(2000, 16, top_k=5, window=2, search="ivf", probes=probes) for probes in (1, 12, 1000)
    )
    exact = NeighborIndex(2000, 16, top_k=5, window=2)
    recalls = run_epochs(few, 3)
    assert recalls[0] is None  # the first epoch is searched exactly
    assert 0.1 < recalls[2] < 0.7
    assert few.signals.recall[1] == ivf.CHECKS * 50 * 5  # whole steps
    assert run_epochs(many, 3)[2] > recalls[2] + 0.2
    assert run_epochs(every, 3)[1:] == [1.0, 1.0]  # all cells: nothing is missed, and every row was rewritten
    assert run_epochs(exact, 3) == [None] * 3
    same(every.lists(), exact.lists())
    assert (few.lists()[0] != exact.lists()[0]).any()


def test_approximate_search_takes_new_images_and_repeats_after_loading(tmp_path):
    pytest.importorskip("faiss")

    def late(index: NeighborIndex, rows: Tensor) -> tuple[np.ndarray, ...]:
        """Images that no earlier epoch had, among some that were; then some of them as queries."""
        ids = np.array([399, 3, 395, 398, 7, 391])
        index.update(ids, rows[ids])
        return index.update(np.arange(380, 400), rows[380:])

    rows = unit(400, 8)
    options = {"top_k": 3, "window": 1, "search": "ivf", "probes": 2}
    index, other = (NeighborIndex(400, 8, **options) for _ in range(2))
    for ids in np.random.default_rng(0).permutation(380).reshape(-1, 20):
        index.update(ids, rows[ids])
    index.end_epoch()
    saving.save(index, tmp_path)
    saving.load(other, tmp_path, 1)
    ids, similarities = late(index, rows)
    assert (ids[[19, 15, 18, 11], 0] == [399, 395, 398, 391]).all()  # each finds itself first
    np.testing.assert_allclose(similarities[[19, 15, 18, 11], 0], 1, rtol=1e-6)
    same(late(other, rows), (ids, similarities))


def test_approximate_search_without_faiss_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ivf, "load_faiss", lambda: None)
    with pytest.raises(InputError, match=r"search=ivf needs FAISS"):
        NeighborIndex(10, 4, search="ivf")
