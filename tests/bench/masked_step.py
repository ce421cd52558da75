"""What do the masked methods cost, against one another and against lightly's I-JEPA and MAE?

    python tests/bench/masked_step.py        # about 4 minutes on one core; needs `pip install -e .[bench]`

A step is forward, backward, AdamW and the EMA teacher. All train the same ViT on as many images under the same masks,
with predictors of one size (MAE's as deep and wide as the others'). Strata runs what its training loop runs, with
drawing masks, normalising uint8 images, rates and the gradient's norm; lightly's side is put together from its
building blocks as its examples are, with masks and float images ready in memory. Each arm has a process of its own,
and they take turns.

Time is the median of ratios over rounds (CPU time; on a GPU wall time), memory the peak above what imports take (on a
GPU what torch allocates). Above 1 in the last column, Strata is faster than lightly.
"""

import argparse
import statistics
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from rich.console import Console
from rich.table import Table
from turns import peak_rss, serve, take_turns

ARMS = {
    "mae": {"name": "mae"},
    "ijepa": {"name": "ijepa"},
    "bootleg, 4 targets": {"name": "bootleg", "targets": {"every": 3}},
    "bootleg, 12 targets": {"name": "bootleg", "targets": "all"},
}
PEERS = {"mae": "lightly mae", "ijepa": "lightly ijepa"}
LR, WEIGHT_DECAY = 1.5e-4, 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32, help="images a step (%(default)s)")
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm ViT (%(default)s)")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--patch-size", type=int, default=8)
    parser.add_argument("--predictor", type=int, nargs=3, default=(96, 6, 3), metavar=("DIM", "DEPTH", "HEADS"))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of Strata's arms")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-peer", action="store_true", help="without lightly")
    parser.add_argument("--rounds", type=int, default=7, help="after one to warm up (%(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="steps a round (%(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    seconds, memory = measure([*ARMS, *([] if args.no_peer else PEERS.values())], args)

    def ratio(arm: str, base: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[arm], seconds[base], strict=True))

    table = Table("arm", "time / ijepa", "memory / ijepa", "images per second / lightly's", title="a masked step")
    for arm in seconds:
        peer = PEERS.get(arm)
        against = f"{ratio(peer, arm):.2f}" if peer in seconds else ""
        table.add_row(arm, f"{ratio(arm, 'ijepa'):.3f}", f"{memory[arm] / memory['ijepa']:.3f}", against)
    Console().print(table)
    print(f"ijepa: {1000 * statistics.median(seconds['ijepa']) / args.steps:.0f} ms a step")


def measure(arms: list[str], args: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every round and peak memory, by arm."""
    seconds, memory = take_turns(train, [(arm, args) for arm in arms], args.rounds)
    return dict(zip(arms, seconds, strict=True)), dict(zip(arms, memory, strict=True))


def train(pipe: Connection, arm: str, args: argparse.Namespace) -> None:
    """One arm: a round of steps whenever it is asked, then its peak memory."""
    import torch

    torch.set_num_threads(args.threads)
    build = lightly_step if arm in PEERS.values() else strata_step
    step, imported = build(arm, args)
    serve(pipe, step, args.steps, args.device, imported)


def configuration(arm: str, args: argparse.Namespace) -> Any:
    from ssl_core.schema.run import RunConfig

    dim, depth, heads = args.predictor
    pool = {"pool": "mean", "position": "sincos", "kwargs": {} if arm == "mae" else {"class_token": False}}
    return RunConfig.model_validate(
        {
            "data": {"train": "bundled:digits"},
            "backbone": {"name": args.model, "image_size": args.image_size, "patch_size": args.patch_size, **pool},
            "framework": {**ARMS[arm], "predictor": {"dim": dim, "depth": depth, "heads": heads}},
            "optim": {"batch_size": args.batch, "precision": args.precision, "lr": LR, "weight_decay": WEIGHT_DECAY},
        }
    )


def strata_step(arm: str, args: argparse.Namespace) -> tuple[Callable[[int], object], int]:
    """A step of Strata's own loop on a batch that is ready; memory before it."""
    import torch

    from ssl_core.batch import Batch
    from ssl_core.data.masks import MaskDrawer, stack
    from ssl_core.data.sources import open_images
    from ssl_core.training.loop import Pretraining

    imported = peak_rss()
    config = configuration(arm, args)
    run = Pretraining(config, open_images(config.data), args.device, loaders=0)
    views = torch.randint(256, (1, args.batch, 3, args.image_size, args.image_size), dtype=torch.uint8)
    drawer = MaskDrawer(config.framework.mask, run.method.student.grid, config.seed)
    masks = stack([drawer.draw(1, 0, image) for image in range(args.batch)])
    batch = Batch(torch.arange(args.batch), {"global": views}, {config.framework.name: masks})
    middle = run.total_steps // 2
    return lambda number: run.train_step(middle + number, [batch]), imported


def lightly_step(arm: str, args: argparse.Namespace) -> tuple[Callable[[int], object], int]:
    """The same step from lightly's building blocks, under the masks that Strata's arm draws; memory before it."""
    import copy

    import timm
    import torch
    import torch.nn.functional as F
    from lightly.models import utils
    from lightly.models.modules import MaskedVisionTransformerTIMM
    from lightly.models.modules.ijepa_timm import IJEPAPredictorTIMM
    from lightly.models.modules.masked_autoencoder_timm import MAEDecoderTIMM

    from ssl_core.data.masks import draw
    from ssl_core.data.sources import open_images
    from ssl_core.seeds import Use, derive_seed
    from ssl_core.training.loop import Pretraining

    imported = peak_rss()
    own = next(name for name, peer in PEERS.items() if peer == arm)
    config = configuration(own, args)
    middle = Pretraining(config, open_images(config.data), loaders=0).total_steps // 2
    side = args.image_size // args.patch_size
    masks = []
    for number in range(args.steps):
        generator = torch.Generator().manual_seed(derive_seed(Use.MASKS, config.seed, middle + number, 0))
        drawn = draw(config.framework.mask, (side, side), args.batch, generator)
        masks.append(drawn.rows(0, args.batch, torch.device(args.device)))
    images = torch.randn(args.batch, 3, args.image_size, args.image_size, device=args.device)
    sizes = {"img_size": args.image_size, "patch_size": args.patch_size, "num_classes": 0}
    vit = timm.create_model(
        args.model, **sizes, class_token=own == "mae", global_pool="token" if own == "mae" else "avg"
    )
    dim, depth, heads = args.predictor
    student = MaskedVisionTransformerTIMM(vit).to(args.device)

    if own == "mae":
        decoder = MAEDecoderTIMM(
            num_patches=side**2,
            patch_size=args.patch_size,
            embed_dim=vit.embed_dim,
            decoder_embed_dim=dim,
            decoder_depth=depth,
            decoder_num_heads=heads,
        ).to(args.device)

        def loss_of(number: int) -> torch.Tensor:
            keep, hidden = masks[number].context + 1, masks[number].targets[:, 0] + 1  # behind the class token
            keep = F.pad(keep, (1, 0))
            encoded = student.encode(images=images, idx_keep=keep)
            tokens = utils.repeat_token(decoder.mask_token, (args.batch, side**2 + 1))
            tokens = utils.set_at_index(tokens, keep, decoder.embed(encoded).type_as(tokens))
            predicted = decoder.predict(utils.get_at_index(decoder.decode(tokens), hidden))
            target = utils.get_at_index(utils.patchify(images, args.patch_size), hidden - 1)
            return F.mse_loss(predicted, utils.normalize_mean_var(target))

        trained = [*student.parameters(), *decoder.parameters()]
    else:
        teacher = copy.deepcopy(student).requires_grad_(False)
        predictor = IJEPAPredictorTIMM(side**2, depth, vit.embed_dim, dim, heads).to(args.device)

        def loss_of(number: int) -> torch.Tensor:
            context, targets = masks[number].context, list(masks[number].targets.unbind(dim=1))
            utils.update_momentum(student, teacher, m=0.996)
            with torch.no_grad():
                known = teacher.encode(images)
                wanted = utils.apply_masks(F.layer_norm(known, known.shape[-1:]), targets)
            return F.smooth_l1_loss(predictor(student.encode(images, idx_keep=context), context, targets), wanted)

        trained = [*student.parameters(), *predictor.parameters()]
    optimizer = torch.optim.AdamW([p for p in trained if p.requires_grad], lr=LR, weight_decay=WEIGHT_DECAY)

    def step(number: int) -> None:
        loss_of(number).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step, imported


if __name__ == "__main__":
    main()
