"""An evaluator: the mean length of features, by layer."""

from ssl_core.evaluation.base import Evaluator
from ssl_core.evaluation.features import Context
from strata_example.schema import NormsConfig


class Norms(Evaluator[NormsConfig]):
    def __init__(self, config: NormsConfig, context: Context):
        super().__init__(config, context)
        _, self.features = context.features("train", config.max_images)

    def measure(self, layer: int) -> dict[str, float]:
        return {"length": self.features[layer].norm(dim=1).mean().item()}
