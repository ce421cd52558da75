"""What does hidden self-distillation (SDSSL) cost on top of its plain framework, in time and in memory?

    python tests/bench/sdssl_cost.py                   # about 3 minutes on one core
    python tests/bench/sdssl_cost.py --device cuda --batch 256 --precision bf16

Both arms train the same ViT on the same images through Strata's training loop, each in a process of
its own, and take turns. The table has the distilled arm over the plain one: median time of a step (CPU
time; on a GPU wall time) and peak memory (of the process, above what its imports take; on a GPU what
torch allocates). The paper (Jang et al., 2021) gives 1.169 for time and 1.06 for memory, and 1.086 for
time with the heads of all layers in parallel.
"""

import argparse
import statistics
from multiprocessing.connection import Connection

from rich.console import Console
from rich.table import Table
from turns import peak_rss, serve, take_turns

FRAMEWORKS = ("simclr", "byol", "mocov3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frameworks", nargs="*", metavar="FRAMEWORK", help=f"{', '.join(FRAMEWORKS)}; default: all")
    parser.add_argument("--batch", type=int, default=32, help="images a step, each in two views (%(default)s)")
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm model (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--hidden-dim", type=int, default=512, help="framework.hidden_dim (%(default)s)")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up (%(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="steps a round; more of them for a GPU (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    table = Table("framework", "time", "memory", title="SDSSL / plain")
    for framework in args.frameworks or FRAMEWORKS:
        times, (plain, distilled) = compare(framework, args)
        table.add_row(framework, f"{statistics.median(times):.3f}", f"{distilled / plain:.3f}")
    Console().print(table)


def compare(framework: str, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Ratio of step times in each round, and the peak memory of the plain and the distilled arm."""
    arms = [(framework, distill, args) for distill in (None, {})]
    (plain, distilled), memory = take_turns(train, arms, args.rounds)
    return [b / a for a, b in zip(plain, distilled, strict=True)], memory


def train(pipe: Connection, framework: str, distill: dict | None, args: argparse.Namespace) -> None:
    """One arm: a round of steps whenever it is asked, then its peak memory."""
    import torch

    from ssl_core.batch import Batch
    from ssl_core.data.sources import open_images
    from ssl_core.schema.run import RunConfig
    from ssl_core.training.loop import Pretraining

    torch.set_num_threads(args.threads)
    imported = peak_rss()
    backbone = {"name": args.model, "image_size": args.image_size}
    if args.model.startswith("vit"):
        backbone["patch_size"] = args.patch_size
    config = RunConfig.model_validate(
        {
            "data": {"train": "bundled:digits"},
            "backbone": backbone,
            "framework": {"name": framework, "hidden_dim": args.hidden_dim},
            "distill": distill,
            "optim": {"batch_size": args.batch, "precision": args.precision},
        }
    )
    run = Pretraining(config, open_images(config.data), args.device, loaders=0)
    views = torch.randint(256, (2, args.batch, 3, args.image_size, args.image_size), dtype=torch.uint8)
    batch = Batch(torch.arange(args.batch), {"global": views})
    middle = run.total_steps // 2
    serve(pipe, lambda _: run.train_step(middle, [batch]), args.steps, args.device, imported)


if __name__ == "__main__":
    main()
