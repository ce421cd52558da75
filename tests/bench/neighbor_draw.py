"""What does drawing AdaSim's partners cost, in time and in memory?

    python tests/bench/neighbor_draw.py                # N = 1.28M, w/K = 10/3 and 50/10: about a minute on two cores

Every image has a window of lists of its own: itself first, and others from its neighbourhood, some of which
come again and again. The table has microseconds an image (median over rounds; wall time, and CPU time of all threads
together), and the highest memory of the process above its imports and the window itself: the aim is ≤ 1 µs at 10/3,
≤ 17 µs at 50/10, and less than 1 GB. Each case runs in a process of its own, so that its peak is its own.
"""

import argparse
import multiprocessing
import statistics
import time

import numpy as np
from rich.console import Console
from rich.table import Table
from turns import peak_rss

GB = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_280_000)
    parser.add_argument("--cases", nargs="+", default=["10/3", "50/10"], metavar="w/K")
    parser.add_argument("--support", choices=("topk", "union"), default="topk")
    parser.add_argument("--open", type=float, default=0.7, help="share of images whose gate is open (%(default)s)")
    parser.add_argument("--tau", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    columns = ("w/K", "gate open", "drawn", "µs/image", "CPU µs/image", "window GB", "peak over it GB")
    table = Table(*columns, title=f"N = {args.images:,}")
    spawn = multiprocessing.get_context("spawn")
    for case in args.cases:
        with spawn.Pool(1) as pool:
            table.add_row(case, *pool.apply(measure, (case, args)))
    Console().print(table)


def measure(case: str, args: argparse.Namespace) -> list[str]:
    import torch

    from ssl_core.positives.neighbors.window import Window

    torch.set_num_threads(args.threads)
    imported = peak_rss()
    size, top_k = map(int, case.split("/"))
    window = make_window(Window(range(args.images), size, top_k, args.support), args.open)
    held = sum(ids.nbytes + similarities.nbytes for ids, similarities in window.epochs)
    chance = np.random.default_rng(0).random(args.images)
    seconds, cpu_seconds = [], []
    for _ in range(args.rounds):
        started, cpu_started = time.perf_counter(), time.process_time()
        draw = window.draw(args.tau, chance)
        seconds.append(time.perf_counter() - started)
        cpu_seconds.append(time.process_time() - cpu_started)
    drawn = (draw.partners != np.arange(args.images)).mean()
    return [
        f"{draw.gate.mean():.0%}",
        f"{drawn:.0%}",
        f"{statistics.median(seconds) / args.images * 1e6:.2f}",
        f"{statistics.median(cpu_seconds) / args.images * 1e6:.2f}",
        f"{held / GB:.2f}",
        f"{(peak_rss() - imported - held) / GB:.2f}",
    ]


def make_window(window, share_open: float):
    """Lists of random neighbours: of 4 K candidates an image, those with the highest similarity in each epoch."""
    generator = np.random.default_rng(1)
    images, top_k = len(window.rows), window.top_k
    is_open = generator.random(images) < share_open
    for _ in range(window.size):
        ids = np.empty((images, top_k), np.int32)
        similarities = np.empty((images, top_k), np.float32)
        for start in range(0, images, 1 << 14):
            rows = np.arange(start, min(start + (1 << 14), images))
            places = np.arange(1, 4 * top_k + 1)
            near = (rows[:, None] + places * (7919 + 104_729 * places)) % images
            near[:, 0] = rows
            score = 0.6 - 0.01 * places + 0.05 * generator.standard_normal(near.shape)
            score[:, 0] = np.where(is_open[rows], 0.95, 0.4)
            order = np.argsort(-score, axis=1)[:, :top_k]
            ids[rows] = np.take_along_axis(near, order, 1)
            similarities[rows] = np.take_along_axis(score, order, 1)
        window.push(ids, similarities)
    return window


if __name__ == "__main__":
    main()
