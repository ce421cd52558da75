"""Exact search for the largest inner products: FAISS where it is installed, on the CPU and on a GPU; else torch."""

import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

BLOCK = 65_536  # bank rows that torch compares at once; bounds memory
TILE = (1024, 16_384)  # queries and bank rows that FAISS compares in one thread
SPARE = 6  # rows found beyond those asked for, to see that nothing was left out by rounding
EFFORT = 1 << 18  # inner products that a step may spend on queries for which that was not enough
GPU_MOST = 2048  # rows that FAISS finds for a query on a GPU
TERMS = 1 << 20  # products that `nearest` holds at once
ROUNDING = 4e-6  # of an inner product of unit vectors, from its place in a matrix product
_NOTHING = np.iinfo(np.int64).max


@functools.cache
def load_faiss() -> ModuleType | None:
    """FAISS, tuned; None where it is not installed."""
    # OpenBLAS inside FAISS picks a generic kernel on some AVX-512 machines: 12 times slower.
    if "avx512f" in _cpu_flags():
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    try:
        import faiss
    except ImportError:
        return None
    faiss.cvar.distance_compute_blas_threshold = 20
    return faiss


def _cpu_flags() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""


@functools.cache
def _gpu_resources(device: torch.device) -> object | None:
    """What FAISS keeps on a GPU; None where FAISS is missing or was built without GPUs."""
    faiss = load_faiss()
    if faiss is None or not hasattr(faiss, "StandardGpuResources"):
        return None
    import faiss.contrib.torch_utils  # lets FAISS take torch's tensors and stream

    return faiss.StandardGpuResources()


def top_k(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` rows of `bank` (N, D) with the largest inner product with each query (B, D).

    Returns:
        similarities (B, k), descending, and row numbers (B, k), on the queries' device.

    Raises:
        ValueError: k is larger than the bank.
    """
    if k > len(bank):
        raise ValueError(f"k = {k} is larger than the bank of {len(bank)}")
    faiss = load_faiss()
    if faiss is not None and queries.is_cuda and k <= GPU_MOST and (resources := _gpu_resources(queries.device)):
        return faiss.knn_gpu(
            resources,
            queries.to(bank.dtype).contiguous(),
            bank.contiguous(),
            k,
            metric=faiss.METRIC_INNER_PRODUCT,
            device=queries.device.index or 0,
        )
    if faiss is None or queries.device.type != "cpu":
        return _torch_top_k(queries, bank, k)
    return _faiss_top_k(faiss, queries.float().contiguous(), bank.float().contiguous(), k)


def _faiss_top_k(faiss: ModuleType, queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """In tiles, each in one thread: FAISS's own threads wait for each other after every 1024 rows, which was measured
    to be 7 times slower where another process wants the cores too."""
    starts = [round(start) for start in np.linspace(0, len(bank), -(-len(bank) // TILE[1]) + 1)]
    rows = [slice(*pair) for pair in itertools.pairwise(starts)]

    def find(part: Tensor, row: slice) -> tuple[Tensor, Tensor]:
        faiss.omp_set_num_threads(1)  # of the calling thread alone
        own = bank[row].numpy()
        similarities, ids = faiss.knn(part.numpy(), own, min(k, len(own)), metric=faiss.METRIC_INNER_PRODUCT)
        return torch.from_numpy(similarities), torch.from_numpy(ids + row.start)

    parts = queries.split(TILE[0])
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        tiles = iter(pool.map(find, *zip(*itertools.product(parts, rows), strict=True)))
        lists = [_best([next(tiles) for _ in rows], k) for _ in parts]
    similarities, ids = zip(*lists, strict=True)
    return torch.cat(similarities), torch.cat(ids)


def _torch_top_k(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(bank), BLOCK):
        block = queries.float() @ bank[start : start + BLOCK].float().T
        similarities, rows = block.topk(min(k, block.shape[1]))
        found = [_best([*found, (similarities, rows + start)], k)]
    return found[0]


def _best(found: list[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """The `k` largest similarities and their rows, of several parts of a bank."""
    if len(found) == 1:
        return found[0]
    similarities, rows = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    similarities, order = similarities.topk(min(k, similarities.shape[1]))
    return similarities, rows.gather(1, order)


def nearest(
    queries: Tensor, bank: Tensor, ids: np.ndarray, k: int, find: Callable[..., tuple[Tensor, Tensor]] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The list of each query (B, D) of unit length: the `k` nearest rows of `bank` (N, D), called by their `ids` (N,).

    The order of the rows does not matter, to the last bit, nor does how they are spread over several banks
    whose lists are then put together by `ranked`; of equal ones, lower ids come first. (Unless very many rows are
    alike up to rounding for very many queries, as after a collapse: see `EFFORT`.)

    Args:
        find: an approximate search in the place of `top_k`; it may give row −1 where it finds less.

    Returns:
        ids (B, k) int32 and similarities (B, k) float32, as `ranked` gives them.
    """
    found = np.full((len(queries), k), -1, dtype=np.int32)
    similarities = np.zeros((len(queries), k), dtype=np.float32)
    left = torch.arange(len(queries), device=queries.device)
    reach = min(k + SPARE, len(bank))
    while reach and len(left) and len(left) * reach <= max(EFFORT, len(queries) * (k + SPARE)):
        part = queries[left]
        rough, rows = (find or top_k)(part, bank, reach)
        exact = _inner_products(part, bank, rows)
        at = left.cpu().numpy()
        found[at], similarities[at] = ranked(*_named(rows, exact, ids), k)
        if find or reach == len(bank):
            break
        left = left[exact.topk(k).values[:, -1] <= rough[:, -1] + ROUNDING]  # what was not found may be as near
        reach = min(16 * reach, len(bank))
    return found, similarities


def _named(rows: Tensor, similarities: Tensor, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places = rows.cpu().numpy()
    return np.where(places < 0, -1, ids[places]).astype(np.int32), similarities.cpu().numpy()


def _inner_products(queries: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """Of each query (B, D) with its own rows (B, k) of the bank: (B, k)."""
    step = max(1, TERMS // (rows.shape[1] * bank.shape[1]))
    parts = zip(queries.split(step), rows.split(step), strict=True)
    return torch.cat([inner(query[:, None], bank[row]) for query, row in parts])


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products along the last dimension, in float32.

    Halves are added element by element: the same bits for two vectors in any batch and on any device.
    """
    terms = a.float() * b.float()
    while (width := terms.shape[-1]) > 1:
        half = (width + 1) // 2
        terms[..., : width - half] += terms[..., half:]
        terms = terms[..., :half]
    return terms[..., 0]


def ranked(ids: np.ndarray, similarities: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists of any length (B, n) as lists of `k`: similarities descending, of equal ones the lower id first.

    Absent entries, and there may be some, have id −1 and similarity 0, at the end. No id may occur twice in a list.
    """
    bits = (similarities.astype("<f4") + np.float32(0)).view("<i4")  # + 0: no negative zeros
    descending = ~(bits ^ ((bits >> 31) & 0x7FFFFFFF))  # as integers, floats of either sign in order
    keys = np.where(ids < 0, _NOTHING, descending.astype(np.int64) << 32 | ids)
    keys.sort(axis=1)
    keys = keys[:, :k]
    if keys.shape[1] < k:
        keys = np.pad(keys, ((0, 0), (0, k - keys.shape[1])), constant_values=_NOTHING)
    absent = keys == _NOTHING
    bits = ~(keys >> 32).astype("<i4")
    similarities = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view("<f4")
    return np.where(absent, -1, keys & 0x7FFFFFFF).astype(np.int32), np.where(absent, np.float32(0), similarities)
