"""`evaluation`: what is measured of every layer, and how often. A file a family of evaluators."""

from ssl_core.schema.evaluation.base import EvaluationDataConfig, EvaluatorConfig, PlacesConfig
from ssl_core.schema.evaluation.usual import GeometryConfig, KnnConfig, LinearConfig

# isort: split
# After the usual ones, the first of which messages and tables take for an example.
from ssl_core.schema.evaluation.cost import CostConfig
from ssl_core.schema.evaluation.few import FewshotConfig, LowshotConfig
from ssl_core.schema.evaluation.finetune import FinetuneConfig
from ssl_core.schema.evaluation.probes import AttentiveConfig, LinearSgdConfig
from ssl_core.schema.evaluation.retrieval import RetrievalConfig
from ssl_core.schema.evaluation.robust import RobustConfig

__all__ = [
    "AttentiveConfig",
    "CostConfig",
    "EvaluationDataConfig",
    "EvaluatorConfig",
    "FewshotConfig",
    "FinetuneConfig",
    "GeometryConfig",
    "KnnConfig",
    "LinearConfig",
    "LinearSgdConfig",
    "LowshotConfig",
    "PlacesConfig",
    "RetrievalConfig",
    "RobustConfig",
]
