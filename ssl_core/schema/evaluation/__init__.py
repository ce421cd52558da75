"""`evaluation`: what is measured of every layer, and how often. A file a family of evaluators."""

from ssl_core.schema.evaluation.base import EvaluationDataConfig, EvaluatorConfig, PlacesConfig
from ssl_core.schema.evaluation.usual import GeometryConfig, KnnConfig, LinearConfig

__all__ = ["EvaluationDataConfig", "EvaluatorConfig", "GeometryConfig", "KnnConfig", "LinearConfig", "PlacesConfig"]
