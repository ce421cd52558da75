"""What the papers report for the settings that a sweep can vary, to be drawn beside what was found."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """k-NN accuracy on ImageNet in % by value of one setting, the others at the paper's best."""

    source: str
    values: dict[Any, float]  # `search_space.label` of the setting → %


SDSSL = "SDSSL, MoCo v3 ViT-S/16, 100 epochs"
ADASIM = "AdaSim, DINO-2 ViT-S/16, 800 epochs, Table 4"

CURVES = {
    # Fig. 9 gives curves without numbers; their ends are in Table 5.
    "distill.alpha": Published(f"{SDSSL}, Table 5", {0.0: 60.8, 1.0: 62.6}),
    "distill.beta": Published(f"{SDSSL}, Table 5", {0.0: 61.9, 1.0: 62.6}),
    "distill.anneal": Published(f"{SDSSL}, Table 5", {"none": 60.2, "cosine": 62.6}),
    "distill.layers": Published(
        f"{SDSSL}, Table 6", {"every: 4": 61.3, "every: 3": 61.5, "every: 2": 61.5, "all": 62.6}
    ),
    "distill.projector_layers": Published(f"{SDSSL}, Table 6", {0: 60.3, 2: 61.3, 3: 62.6}),
    "positives.tau": Published(ADASIM, {0.0: 68.4, 0.05: 68.8, 0.1: 69.0, 0.2: 70.1, 0.4: 69.8}),
    "positives.window": Published(ADASIM, {1: 69.3, 10: 70.1, 50: 69.4}),
    "positives.top_k": Published(ADASIM, {2: 69.4, 3: 70.1, 5: 70.1, 10: 69.1, 20: 68.4}),
}
