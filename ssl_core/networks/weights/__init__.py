"""Published weights → an encoder: files are read safely, known by their content, and fitted to the network."""

from ssl_core.networks.weights.fit import Fit, fit_weights, load_weights
from ssl_core.networks.weights.reading import is_hub

__all__ = ["Fit", "fit_weights", "is_hub", "load_weights"]
