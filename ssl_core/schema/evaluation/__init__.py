"""`evaluation`: what is measured of every layer, and how often. A file a family of evaluators."""

from ssl_core.schema.evaluation.base import EvaluationDataConfig, EvaluatorConfig, PlacesConfig
from ssl_core.schema.evaluation.usual import GeometryConfig, KnnConfig, LinearConfig

# isort: split
# After the usual ones, the first of which messages and tables take for an example.
from ssl_core.schema.evaluation.dense import SegmentationConfig, VideoConfig
from ssl_core.schema.evaluation.few import FewshotConfig, LowshotConfig
from ssl_core.schema.evaluation.inside import CkaConfig, PatchesConfig, ProjectionConfig
from ssl_core.schema.evaluation.retrieval import RetrievalConfig
from ssl_core.schema.evaluation.same import CopiesConfig, DuplicatesConfig

__all__ = [
    "CkaConfig",
    "CopiesConfig",
    "DuplicatesConfig",
    "EvaluationDataConfig",
    "EvaluatorConfig",
    "FewshotConfig",
    "GeometryConfig",
    "KnnConfig",
    "LinearConfig",
    "LowshotConfig",
    "PatchesConfig",
    "PlacesConfig",
    "ProjectionConfig",
    "RetrievalConfig",
    "SegmentationConfig",
    "VideoConfig",
]
