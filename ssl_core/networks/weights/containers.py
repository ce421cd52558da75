"""Which tensors of a file are the encoder's, and what they are called: told by the content, not by the file's name.

Published files nest and prefix their weights, each in its own way:

    DINO, iBOT, DINOv2   {"teacher": {"backbone.…"}, "student": {"module.backbone.…"}}
    MoCo v3              {"state_dict": {"module.base_encoder.…", "module.momentum_encoder.…"}}
    MAE                  {"model": {"…", "decoder_…"}}
    I-JEPA               {"encoder": {"module.…"}, "target_encoder": {"module.…"}}
    SimMIM, BEiT         {"model": {"encoder.…"}}
    Strata               {"method": {"teacher.encoder.model.…", "student.model.…"}}

All that is nested is looked through, and every prefix that puts names of the model's behind it is tried. The set that
fits best is the encoder; of sets that fit alike, the one that its authors evaluate.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

PREFERRED = (
    *("teacher", "target_encoder", "model_ema", "ema", "base_encoder", "online", "model", "state_dict", "student"),
    *("encoder", "backbone", "momentum_encoder"),
)
"""Parts of names, those first that the authors of such files evaluate."""
DEEPEST = 4  # containers in containers
OTHER_NAMES = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        # torchvision's ViT
        (r"^class_token$", "cls_token"),
        (r"^conv_proj\.", "patch_embed.proj."),
        (r"^encoder\.pos_embedding$", "pos_embed"),
        (r"^encoder\.ln\.", "norm."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.", r"blocks.\1.norm\2."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
        (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
        # DINOv2: blocks in chunks, numbered throughout; registers; SwiGLU
        (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),
        (r"^register_tokens$", "reg_token"),
        (r"^(blocks\.\d+\.mlp)\.w12\.", r"\1.fc1."),
        (r"^(blocks\.\d+\.mlp)\.w3\.", r"\1.fc2."),
        # BEiT, iBOT, DeiT III: what scales a layer
        (r"^(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),
    )
)
"""What others call a ViT's tensors, and timm."""


@dataclass(frozen=True)
class Candidate:
    """Tensors of a file that may be the encoder's, under the names that they have without what is before them.

    Attributes:
        place: where they are: containers and prefix.
    """

    place: str
    tensors: dict[str, Tensor]

    @property
    def rank(self) -> int:
        """Of sets that fit alike, the lowest is taken."""
        words = re.split(r"[./]", self.place)
        return min((PREFERRED.index(word) for word in words if word in PREFERRED), default=len(PREFERRED))


def candidates(stored: Any, names: set[str]) -> Iterator[Candidate]:
    """All sets of tensors in what a file holds that have some of the model's `names`, or other names for them."""
    for place, tensors in _states(stored, "", DEEPEST):
        for prefix in _prefixes(tensors, names):
            behind = ((name[len(prefix) :], x) for name, x in tensors.items() if name.startswith(prefix))
            yield Candidate(f"{place}/{prefix}".strip("/."), {_as_timm_says(name, names): x for name, x in behind})


def _states(stored: Any, place: str, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Mappings with tensors in them, wherever they are nested."""
    if not isinstance(stored, Mapping) or depth == 0:
        return
    tensors = {name: value for name, value in stored.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield place, tensors
    for name, value in stored.items():
        yield from _states(value, f"{place}/{name}".strip("/"), depth - 1)


def _prefixes(tensors: Mapping[str, Tensor], names: set[str]) -> list[str]:
    """What stands before names of the model's, the commonest first."""
    found: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for cut in range(len(parts)):
            if _as_timm_says(".".join(parts[cut:]), names) in names:
                found["".join(f"{part}." for part in parts[:cut])] += 1
                break
    return [prefix for prefix, _ in found.most_common()]


def _as_timm_says(name: str, names: set[str]) -> str:
    """timm's name of a tensor; what the model itself calls so is left alone."""
    if name in names:
        return name
    for theirs, ours in OTHER_NAMES:
        name = theirs.sub(ours, name)
    return name
