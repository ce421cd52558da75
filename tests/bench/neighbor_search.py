"""How near does the exact neighbour search of a step come to the machine's matrix-product rate, at any N?

    python tests/bench/neighbor_search.py              # N = 50k, 200k and 1.28M, d = 384, B = 256: 3 minutes on a core
    python tests/bench/neighbor_search.py --threads 2
    python tests/bench/neighbor_search.py --device cuda --dtype float16

A search takes 2·B·N·d operations in its inner products alone; the table has the rate at which a whole search
does them, with choosing the K nearest and computing their similarities once more, over that of a square matrix
product of torch. Both take turns, and the ratio is a median over rounds; with one thread in CPU time, else in wall
time. The aim is ≥ 80 %, and a time for a query and a row that does not grow with N.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from ssl_core.search import load_faiss, nearest

SIDE = 3072  # of the square matrices
SECONDS = 0.3  # at least, of either side in a round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=[50_000, 200_000, 1_280_000], metavar="N")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load_faiss()

    options = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    bank = torch.empty(max(args.images), args.dim, **options)
    for block in bank.split(1 << 16):
        block.copy_(F.normalize(torch.randn(block.shape, device=args.device), dim=1))
    queries = F.normalize(torch.randn(args.batch, args.dim, device=args.device), dim=1).to(bank.dtype)
    square = torch.randn(SIDE, SIDE, **options)
    ids = np.arange(len(bank))

    table = Table("N", "ms/step", "ns/query/row", "GFLOP/s", "torch GFLOP/s", "ratio")
    for images in args.images:
        part, names = bank[:images], ids[:images]

        def search(part: torch.Tensor = part, names: np.ndarray = names) -> object:
            return nearest(queries, part, names, args.top_k)

        searches, products = [], []
        for _ in range(args.rounds + 1):
            searches.append(seconds_of(search, args))
            products.append(seconds_of(lambda: square @ square, args))
        work = 2 * args.batch * images * args.dim
        rates = [work / seconds / 1e9 for seconds in searches[1:]]
        peaks = [2 * SIDE**3 / seconds / 1e9 for seconds in products[1:]]
        seconds = statistics.median(searches[1:])
        table.add_row(
            f"{images:,}",
            f"{seconds * 1e3:.0f}",
            f"{seconds / args.batch / images * 1e9:.2f}",
            f"{statistics.median(rates):.0f}",
            f"{statistics.median(peaks):.0f}",
            f"{statistics.median(rate / peak for rate, peak in zip(rates, peaks, strict=True)):.0%}",
        )
    title = f"d = {args.dim}, B = {args.batch}, K = {args.top_k}, {args.dtype}, {args.threads} threads"
    table.title = f"exact search on {args.device}: {title}"
    Console().print(table)


def seconds_of(work: Callable[[], object], args: argparse.Namespace) -> float:
    """Time of one call, over enough of them."""
    cuda = torch.device(args.device).type == "cuda"
    clock = time.perf_counter if cuda or args.threads > 1 else time.process_time
    started, calls = clock(), 0
    while clock() - started < SECONDS:
        work()
        calls += 1
        if cuda:
            torch.cuda.synchronize()
    return (clock() - started) / calls


if __name__ == "__main__":
    main()
