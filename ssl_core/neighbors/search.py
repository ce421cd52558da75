"""Exact search for the largest inner products: FAISS on the CPU, torch on a GPU or where FAISS is missing."""

import functools
import os
from types import ModuleType

import torch
from torch import Tensor

BLOCK = 65_536  # bank rows that torch compares at once; bounds memory


@functools.cache
def _faiss() -> ModuleType | None:
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


def top_k(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` rows of `bank` (N, D) with the largest inner product with each query (B, D).

    Returns:
        similarities (B, k), descending, and row numbers (B, k), on the queries' device.

    Raises:
        ValueError: k is larger than the bank.
    """
    if k > len(bank):
        raise ValueError(f"k = {k} is larger than the bank of {len(bank)}")
    faiss = _faiss() if queries.device.type == "cpu" else None
    if faiss is None:
        return _torch_top_k(queries, bank, k)
    faiss.omp_set_num_threads(torch.get_num_threads())
    similarities, ids = faiss.knn(
        queries.float().contiguous().numpy(), bank.float().contiguous().numpy(), k, metric=faiss.METRIC_INNER_PRODUCT
    )
    return torch.from_numpy(similarities), torch.from_numpy(ids)


def _torch_top_k(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, len(bank), BLOCK):
        block = queries @ bank[start : start + BLOCK].T
        similarities, ids = block.topk(min(k, block.shape[1]))
        ids = ids + start
        if best is not None:
            similarities, ids = torch.cat([best[0], similarities], 1), torch.cat([best[1], ids], 1)
            similarities, order = similarities.topk(k)
            ids = ids.gather(1, order)
        best = similarities, ids
    return best
