"""Published weights → an encoder: files are read safely, known by their content, and fitted to the network."""

from ssl_core.networks.weights.fit import Fit, check_weights, fit_weights, load_weights
from ssl_core.networks.weights.reading import backbone_of, is_hub, read

__all__ = ["Fit", "backbone_of", "check_weights", "fit_weights", "is_hub", "load_weights", "read"]
