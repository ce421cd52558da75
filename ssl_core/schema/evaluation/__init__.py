"""`evaluation`: what is measured of every layer, and how often. A file a family of evaluators."""

from ssl_core.schema.evaluation.base import EvaluationDataConfig, EvaluatorConfig, PlacesConfig
from ssl_core.schema.evaluation.usual import GeometryConfig, KnnConfig, LidarConfig, LinearConfig

# isort: split
# After the usual ones, the first of which messages and tables take for an example.
from ssl_core.schema.evaluation.cost import CostConfig
from ssl_core.schema.evaluation.dense import DavisConfig, MasksConfig, SegmentationConfig, VideoConfig
from ssl_core.schema.evaluation.few import FewshotConfig, LowshotConfig, SemiConfig
from ssl_core.schema.evaluation.finetune import FinetuneConfig
from ssl_core.schema.evaluation.inside import CkaConfig, PatchesConfig, ProjectionConfig
from ssl_core.schema.evaluation.probes import AttentiveConfig, LinearSgdConfig, TrainedProbeConfig
from ssl_core.schema.evaluation.retrieval import RetrievalConfig, RevisitedConfig, RevisitedDataConfig
from ssl_core.schema.evaluation.robust import RobustConfig
from ssl_core.schema.evaluation.same import CopiesConfig, CopydaysConfig, DuplicatesConfig

__all__ = [
    "AttentiveConfig",
    "CkaConfig",
    "CopiesConfig",
    "CopydaysConfig",
    "CostConfig",
    "DavisConfig",
    "DuplicatesConfig",
    "EvaluationDataConfig",
    "EvaluatorConfig",
    "FewshotConfig",
    "FinetuneConfig",
    "GeometryConfig",
    "KnnConfig",
    "LidarConfig",
    "LinearConfig",
    "LinearSgdConfig",
    "LowshotConfig",
    "MasksConfig",
    "PatchesConfig",
    "PlacesConfig",
    "ProjectionConfig",
    "RetrievalConfig",
    "RevisitedConfig",
    "RevisitedDataConfig",
    "RobustConfig",
    "SegmentationConfig",
    "SemiConfig",
    "TrainedProbeConfig",
    "VideoConfig",
]
