"""Seeded losses and weights of every small recipe, written down so that a change of the code cannot change them unseen.

    python -m tests.frozen.record [NAME …]     write frozen.json anew: all cases, or these

A commit that must change a figure says which and why, and records that case alone.
"""

import hashlib
import json
import platform
import re
import sys
from pathlib import Path

import timm
import torch
from torch import nn

from ssl_core import recipes
from ssl_core.data.sources import open_images
from ssl_core.schema.run import RunConfig
from ssl_core.training.loop import Pretraining
from tests.gloo import Ranks

FILE = Path(__file__).with_name("frozen.json")
# Three epochs of one step each: so that neighbours are drawn, and DINO's prototypes start to move, within three steps.
COMMON = ["data.train=bundled:digits", "optim.epochs=3", "optim.batch_size=32", "data.limit=32", "data.workers=0"]
COMMON += ["evaluation=[]"]
VARIANTS = {
    "small-sd-byol, norms": ["small-sd-byol", "distill.per_layer_norm=true", "distill.layers=[2,4]"],
    "small-sd-mocov3, no projector": ["small-sd-mocov3", "distill.projector_layers=0"],
    "small-sd-mocov3, accumulated": ["small-sd-mocov3", "optim.accumulate=2"],
    "small-sd-mocov3, resnet": [
        "small-sd-mocov3",
        "backbone={name: resnet18, position: learned, freeze_patch_embed: false, patch_size: null}",
        "backbone.kwargs=null",
        "backbone.kwargs={in_chans: 1}",
    ],
    "small-dino, local crops": ["small-dino", "views.local_crops={count: 2, size: 16}"],
    "small-adasim-sd-mocov3, projector": [
        "small-adasim-sd-mocov3",
        "positives={cache: {feature: projector, source: student}, window: 1}",
    ],
    "small-bootleg, weighted": ["small-bootleg", "framework.target_weights=[1,2,4]"],
    "small-ijepa, random masks": ["small-ijepa", "framework.mask={kind: random, share: 0.5}"],
    "small-sd-simclr, bf16": ["small-sd-simclr", "optim.precision=bf16"],
}
ON_TWO_RANKS = ("small-sd-mocov3", "small-simclr", "small-dino", "small-adasim-simsiam", "small-bootleg", "small-mae")


def cases() -> dict[str, list[str]]:
    """What is held: a recipe and its overrides by name."""
    small = {name: [name] for name in recipes.names() if name.startswith("small-") or name == "demo"}
    return small | VARIANTS


def frozen_config(words: list[str]) -> RunConfig:
    recipe, *overrides = words
    if "adasim" in recipe:  # windows that are full in time
        overrides = ["positives.window=1", "positives.tau=0.05", *overrides]
    return recipes.load(recipe, [*COMMON, *overrides])


def frozen_run(words: list[str], workers: int = 1) -> dict[str, object]:
    """Losses of three steps, and hashes of the weights after them: of the encoder by name, of all in any order."""
    torch.set_num_threads(1)
    config = frozen_config(words).with_workers(workers)
    run = Pretraining(config, open_images(config.data), loaders=0)
    history = run.run()
    losses = [record["loss"] for record in history[1:]]
    return {"losses": losses, "encoder": hash_state(run.method.encoder.model), "all": hash_weights(run.method)}


def hash_state(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + _bytes(tensor))
    return digest.hexdigest()


def hash_weights(module: nn.Module) -> str:
    """Of all parameters, whatever they are called and in whatever order they come."""
    each = sorted(hashlib.sha256(_bytes(parameter)).hexdigest() for parameter in module.parameters())
    return hashlib.sha256("".join(each).encode()).hexdigest()


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def machine() -> dict[str, str]:
    """What bits depend on."""
    kind = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    if (info := Path("/proc/cpuinfo")).exists():
        about = dict(re.findall(r"^(model name|cpu family|model|cache size)\s*: (.*)$", info.read_text(), re.MULTILINE))
        kind += [about[key] for key in sorted(about)]
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "cpu": ", ".join(kind),
    }


def main() -> None:
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    wanted = sys.argv[1:]
    ranks = Ranks(2)
    try:
        for name, words in cases().items():
            if wanted and name not in wanted:
                continue
            known[name] = {"machine": machine(), "one": frozen_run(words)}
            if name in ON_TWO_RANKS:
                known[name]["two"] = ranks(frozen_run, words, 2)[0]
            print(name, known[name]["one"]["losses"], flush=True)
    finally:
        ranks.close()
    FILE.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
