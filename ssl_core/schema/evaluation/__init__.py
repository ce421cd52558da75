"""`evaluation`: what is measured of every layer, and how often. A file a family of evaluators."""

from ssl_core.schema.evaluation.base import EvaluationDataConfig, EvaluatorConfig, PlacesConfig
from ssl_core.schema.evaluation.usual import GeometryConfig, KnnConfig, LidarConfig, LinearConfig

# isort: split
# After the usual ones, the first of which messages and tables take for an example.
from ssl_core.schema.evaluation.cost import CostConfig
from ssl_core.schema.evaluation.few import FewshotConfig, LowshotConfig, SemiConfig
from ssl_core.schema.evaluation.inside import CkaConfig, PatchesConfig, ProjectionConfig
from ssl_core.schema.evaluation.retrieval import RetrievalConfig, RevisitedConfig

__all__ = [
    "CkaConfig",
    "CostConfig",
    "EvaluationDataConfig",
    "EvaluatorConfig",
    "FewshotConfig",
    "GeometryConfig",
    "KnnConfig",
    "LidarConfig",
    "LinearConfig",
    "LowshotConfig",
    "PatchesConfig",
    "PlacesConfig",
    "ProjectionConfig",
    "RetrievalConfig",
    "RevisitedConfig",
    "SemiConfig",
]
