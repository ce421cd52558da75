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
TORCHVISION = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.ln\.", "norm."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_1\.", r"blocks.\1.norm1."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.ln_2\.", r"blocks.\1.norm2."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
)
"""torchvision's names of a ViT's tensors, and timm's."""
CHUNKED = re.compile(r"^blocks\.\d+\.(\d+)\.")  # DINOv2's blocks in chunks, numbered throughout


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
    """All sets of tensors in what a file holds that have some of the model's `names`, or of torchvision's for them."""
    for place, tensors in _states(stored, "", DEEPEST):
        renamed = {_in_timms_names(name): tensor for name, tensor in tensors.items()}
        for state in [tensors, renamed] if renamed.keys() != tensors.keys() else [tensors]:
            for prefix in _prefixes(state, names):
                own = {
                    CHUNKED.sub(r"blocks.\1.", _in_timms_names(name[len(prefix) :])): tensor
                    for name, tensor in state.items()
                    if name.startswith(prefix)
                }
                yield Candidate(f"{place}/{prefix}".strip("/."), own)


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
        parts = CHUNKED.sub(r"blocks.\1.", name).split(".") if CHUNKED.match(name) else name.split(".")
        for cut in range(len(parts)):
            rest = CHUNKED.sub(r"blocks.\1.", ".".join(parts[cut:]))
            if rest in names:
                found["".join(f"{part}." for part in name.split(".")[:cut])] += 1
                break
    return [prefix for prefix, _ in found.most_common()]


def _in_timms_names(name: str) -> str:
    for pattern, ours in TORCHVISION:
        renamed, count = re.subn(pattern, ours, name)
        if count:
            return renamed
    return name
