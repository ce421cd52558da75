"""What the encoder costs that is cut after each layer: parameters, FLOPs, latency, images a second (SDSSL, Fig. 3)."""

import time
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssl_core import distributed
from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.networks.cut import cut
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.layers import Want
from ssl_core.schema.evaluation import CostConfig

WARM = 2  # passes before those that are timed


class Cost(Evaluator[CostConfig]):
    """Rank 0 measures all layers while the others wait: passes of several ranks would slow one another."""

    def __init__(self, config: CostConfig, context: Context):
        super().__init__(config, context)
        own = self._of_layers(layers_measured(config, context.depth)) if distributed.rank() == 0 else {}
        self.costs: dict[int, dict[str, float]] = distributed.gather_objects(own)[0]

    def measure(self, layer: int) -> dict[str, float]:
        return self.costs[layer]

    def _of_layers(self, layers: list[int]) -> dict[int, dict[str, float]]:
        """By layer, from 0, of layers from 1."""
        found: dict[int, dict[str, float]] = {}
        for layer in layers:
            encoder = cut(self.context.encoder, layer).to(self.context.device).eval()
            found[layer - 1] = {
                "parameters": float(sum(p.numel() for p in encoder.parameters())),
                "latency_ms": 1000 * seconds(encoder, 1, self.config.repeats),
                "throughput": self.config.batch / seconds(encoder, self.config.batch, self.config.repeats),
                "flops": float(flops(encoder)),
            }
            self.context.tell("timing layers", len(found), len(layers))
        return found


def flops(encoder: Encoder) -> int:
    """Floating-point operations of one image's pooled feature of the last layer; a multiplication and addition are two.

    Counted without data: torch knows of no fused attention on a CPU what it costs. The encoder loses its weights.
    """
    bare = encoder.to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        bare(_images(bare, 1), Want(pooled=(bare.depth,)))
    return counter.get_total_flops()


@torch.no_grad()
def seconds(encoder: Encoder, batch: int, repeats: int) -> float:
    """The median time of a pass of `batch` images to the pooled feature of the last layer, images on the device."""
    images, want = _images(encoder, batch), Want(pooled=(encoder.depth,))
    times = []
    for _ in range(WARM + repeats):
        _wait(images.device)
        started = time.perf_counter()
        encoder(images, want)
        _wait(images.device)
        times.append(time.perf_counter() - started)
    return median(times[WARM:])


def _images(encoder: Encoder, count: int) -> Tensor:
    device = next(encoder.parameters()).device
    return torch.zeros(count, encoder.channels, encoder.image_size, encoder.image_size, device=device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
