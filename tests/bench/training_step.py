"""How fast is a training step, next to the same step built by hand from lightly's building blocks?

    python tests/bench/training_step.py        # about 4 minutes on one core; needs `pip install -e .[bench]`

A step is forward, backward, AdamW and the EMA teacher. Strata runs what its training loop runs, with
normalising uint8 images, rates and the gradient's norm; lightly's side is written as its documentation's
examples are (one forward pass a view, torch's default AdamW), with float images ready in memory. Both
train the same ViT on as many images, with heads of the same depth and widths.

The table has ratios of images per second of CPU time, medians over rounds in which all arms take turns:
above 1, Strata is faster. "bf16 / fp32" is Strata's bf16 precision against lightly's fp32, which is
what its examples do on a CPU; "bf16 / bf16" wraps lightly's step in autocast by hand.
"""

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable

import timm
import torch
from lightly.loss import NegativeCosineSimilarity, NTXentLoss
from lightly.models.modules.heads import MoCoProjectionHead, ProjectionHead, SimCLRProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ssl_core.batch import Batch
from ssl_core.data.sources import open_images
from ssl_core.data.views import normalise
from ssl_core.schema.run import RunConfig
from ssl_core.training.loop import Pretraining

FRAMEWORKS = ("simclr", "byol", "mocov3")
LR, WEIGHT_DECAY, TEMPERATURE, MOMENTUM, OUTPUT_DIM = 1.5e-4, 0.1, 0.2, 0.996, 256
Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frameworks", nargs="*", metavar="FRAMEWORK", help=f"{', '.join(FRAMEWORKS)}; default: all")
    parser.add_argument("--batch", type=int, default=32, help="images a step, each in two views (%(default)s)")
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm ViT (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--hidden-dim", type=int, default=512, help="hidden width of all heads (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="after one to warm up (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    table = Table("framework", "fp32 / fp32", "bf16 / fp32", "bf16 / bf16", title="Strata / lightly, images per CPU-s")
    for framework in args.frameworks or FRAMEWORKS:
        views = torch.randint(256, (2, args.batch, 3, args.image_size, args.image_size), dtype=torch.uint8)
        arms = [
            strata_step(framework, views, "fp32", args),
            strata_step(framework, views, "bf16", args),
            lightly_step(framework, normalise(views), "fp32", args),
            lightly_step(framework, normalise(views), "bf16", args),
        ]
        rounds = [[cpu_seconds(arm) for arm in arms] for _ in range(args.rounds + 1)][1:]
        pairs = (("lightly fp32", 2, 0), ("lightly fp32", 2, 1), ("lightly bf16", 3, 1))
        ratios = [statistics.median(seconds[peer] / seconds[own] for seconds in rounds) for _, peer, own in pairs]
        table.add_row(framework, *(f"{ratio:.2f}" for ratio in ratios))
    Console().print(table)


def cpu_seconds(step: Step) -> float:
    started = time.process_time()
    step()
    return time.process_time() - started


def strata_step(framework: str, views: Tensor, precision: str, args: argparse.Namespace) -> Step:
    """A step of Strata's own loop on a batch that is ready; the images of its data set are never read."""
    config = RunConfig.model_validate(
        {
            "data": {"train": "bundled:digits"},
            "backbone": {"name": args.model, "image_size": args.image_size, "patch_size": args.patch_size},
            "framework": {"name": framework, "hidden_dim": args.hidden_dim, "output_dim": OUTPUT_DIM},
            "optim": {"batch_size": args.batch, "precision": precision, "lr": LR, "weight_decay": WEIGHT_DECAY},
        }
    )
    run = Pretraining(config, open_images(config.data), loaders=0)
    batch = Batch(torch.arange(args.batch), {"global": views})
    middle = run.total_steps // 2
    return lambda: run.train_step(middle, [batch])


def lightly_step(framework: str, views: Tensor, precision: str, args: argparse.Namespace) -> Step:
    """The same step from lightly's heads, losses and utilities."""
    model = LIGHTLY[framework](args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR * args.batch / 256, weight_decay=WEIGHT_DECAY)
    x0, x1 = views

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
            loss = model.loss(x0, x1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


class LightlySimCLR(nn.Module):
    def __init__(self, args: argparse.Namespace):
        super().__init__()
        self.backbone = vit(args)
        self.projection_head = SimCLRProjectionHead(self.backbone.embed_dim, args.hidden_dim, OUTPUT_DIM, num_layers=3)
        self.criterion = NTXentLoss(temperature=TEMPERATURE)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        return self.criterion(self(x0), self(x1))


class LightlyBYOL(nn.Module):
    """lightly's example of BYOL, with the three linear maps that Strata's projector has."""

    def __init__(self, args: argparse.Namespace):
        super().__init__()
        self.backbone = vit(args)
        self.projection_head, self.prediction_head = self.heads(self.backbone.embed_dim, args.hidden_dim)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.similarity = NegativeCosineSimilarity()

    def heads(self, width: int, hidden: int) -> tuple[nn.Module, nn.Module]:
        def block(width: int) -> tuple:
            return width, hidden, nn.BatchNorm1d(hidden), nn.ReLU()

        last = (hidden, OUTPUT_DIM, None, None)
        return ProjectionHead([block(width), block(hidden), last]), ProjectionHead([block(OUTPUT_DIM), last])

    def criterion(self, p: Tensor, z: Tensor) -> Tensor:
        return 0.5 * self.similarity(p, z)

    def forward(self, x: Tensor) -> Tensor:
        return self.prediction_head(self.projection_head(self.backbone(x).flatten(start_dim=1)))

    def forward_momentum(self, x: Tensor) -> Tensor:
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()

    def loss(self, x0: Tensor, x1: Tensor) -> Tensor:
        update_momentum(self.backbone, self.backbone_momentum, m=MOMENTUM)
        update_momentum(self.projection_head, self.projection_head_momentum, m=MOMENTUM)
        p0, z0 = self(x0), self.forward_momentum(x0)
        p1, z1 = self(x1), self.forward_momentum(x1)
        return self.criterion(p0, z1) + self.criterion(p1, z0)


class LightlyMoCoV3(LightlyBYOL):
    """The same with MoCo v3's heads and its published loss, which lightly leaves to the user."""

    def heads(self, width: int, hidden: int) -> tuple[nn.Module, nn.Module]:
        return (
            MoCoProjectionHead(width, hidden, OUTPUT_DIM, num_layers=3, batch_norm=True),
            MoCoProjectionHead(OUTPUT_DIM, hidden, OUTPUT_DIM, num_layers=2, batch_norm=True),
        )

    def criterion(self, p: Tensor, z: Tensor) -> Tensor:
        logits = nn.functional.normalize(p, dim=1) @ nn.functional.normalize(z, dim=1).T / TEMPERATURE
        return 2 * TEMPERATURE * nn.functional.cross_entropy(logits, torch.arange(len(p)))


LIGHTLY = {"simclr": LightlySimCLR, "byol": LightlyBYOL, "mocov3": LightlyMoCoV3}


def vit(args: argparse.Namespace) -> nn.Module:
    return timm.create_model(args.model, num_classes=0, img_size=args.image_size, patch_size=args.patch_size)


if __name__ == "__main__":
    main()
