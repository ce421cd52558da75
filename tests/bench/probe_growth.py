"""How do k-NN and the linear probe grow with images, features and classes, and what do they hold in memory?

    python tests/bench/probe_growth.py                       # 2,000 and 10,000 images × 384: two minutes on two cores
    python tests/bench/probe_growth.py --images 50000 --layers 12
    python tests/bench/probe_growth.py --images 1280000 --classes 1000 --solvers batches --device cuda

A row is one layer of so many images of train; val has a fifth as many. Seconds are of one layer's evaluator, rates are
images of train a second, and memory is what the process (on a GPU: torch) held at most beyond the features themselves.
`linear (batches)` is what replaces the linear probe's solver where images × classes are too many; its gap is its
objective over the optimum's, less one, and `same` the share of val that both classify alike.
"""

import argparse
import gc
import threading
import time
from collections.abc import Callable

import psutil
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ssl_core.evaluation import linear
from ssl_core.evaluation.knn import knn_predict

SOLVERS = ("optimum", "batches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=[2_000, 10_000], metavar="N")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--layers", type=int, default=1, help="measured one after the other; seconds are of one")
    parser.add_argument("--l2", type=float, default=1e-3)
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table("images", "evaluator", "s/layer", "images/s", "held, MB", "gap", "same")
    for images in args.images:
        for row in rows(images, args):
            table.add_row(f"{images:,}", *row)
    table.title = f"{args.dim} features, {args.classes} classes, {args.device}, {args.threads} threads"
    Console().print(table)


def rows(images: int, args: argparse.Namespace) -> list[list[str]]:
    """A row of the table for each evaluator."""
    generator = torch.Generator().manual_seed(0)
    layers = [features(images, args, generator) for _ in range(args.layers)]
    found, predicted = [], dict[str, Tensor]()
    for name in ("k-NN", *(f"linear ({solver})" for solver in args.solvers)):
        linear.LOGITS = 0 if "batches" in name else 1 << 62
        seconds, held = 0.0, 0.0
        for bank, labels, queries in layers:
            work = measured(name, bank, labels, queries, args)
            took, most, predicted[name] = timed(work, args.device)
            seconds, held = seconds + took / args.layers, max(held, most)
        cells = [name, f"{seconds:.2f}", f"{images / seconds:,.0f}", f"{held / 2**20:,.0f}"]
        found.append([*cells, *compared(name, predicted, layers[-1], args)])
    return found


def features(images: int, args: argparse.Namespace, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping classes: a bank, its labels, and queries, of features that go together."""
    means = torch.randn(args.classes, args.dim, generator=generator)
    mix = torch.randn(args.dim, args.dim, generator=generator) * torch.logspace(0, -2, args.dim)[:, None]
    labels = torch.randint(args.classes, (images + images // 5,), generator=generator)
    x = torch.empty(len(labels), args.dim)
    for part, label in zip(x.split(1 << 16), labels.split(1 << 16), strict=True):
        part.copy_((0.3 * means[label] + torch.randn(part.shape, generator=generator)) @ mix)
    x, labels = x.to(args.device), labels.to(args.device)
    return x[:images], labels[:images], x[images:]


def measured(
    name: str, bank: Tensor, labels: Tensor, queries: Tensor, args: argparse.Namespace
) -> Callable[[], Tensor]:
    if name == "k-NN":
        return lambda: knn_predict(queries, bank, labels, args.classes)
    return lambda: linear.linear_predict(queries, bank, labels, args.classes, args.l2)


def timed(work: Callable[[], Tensor], device: str) -> tuple[float, float, Tensor]:
    """Seconds, bytes held at most beyond those before, and what came of it."""
    gc.collect()
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        started = time.perf_counter()
        found = work()
        torch.cuda.synchronize()
        return time.perf_counter() - started, torch.cuda.max_memory_allocated() - before, found
    process, ended, most = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    return seconds, most[0], found


def compared(
    name: str, predicted: dict[str, Tensor], layer: tuple[Tensor, Tensor, Tensor], args: argparse.Namespace
) -> list[str]:
    """The gap of the solver in batches, and how often both say the same, where both were measured."""
    if name != "linear (batches)" or "linear (optimum)" not in predicted:
        return ["", ""]
    bank, labels, _ = layer
    mean, deviation = bank.mean(dim=0), bank.std(dim=0, correction=0)
    x = (bank - mean) / deviation

    def objective(weight: Tensor, bias: Tensor) -> float:
        return (F.cross_entropy(x @ weight.T + bias, labels) + args.l2 / 2 * weight.square().sum()).item()

    best = objective(*linear.optimum(x, labels, args.classes, args.l2))
    near = objective(*linear.near_optimum(bank, labels, args.classes, args.l2, mean, deviation))
    same = (predicted[name] == predicted["linear (optimum)"]).float().mean().item()
    return [f"{near / best - 1:.1e}", f"{same:.1%}"]


if __name__ == "__main__":
    main()
