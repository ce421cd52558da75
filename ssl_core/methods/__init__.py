"""Methods: what a network learns from. `build` turns a configuration into a trainable module."""

from ssl_core.methods.engine import Method
from ssl_core.networks.create import check_sees_patches
from ssl_core.networks.depth import below_heads
from ssl_core.networks.encoder import Encoder
from ssl_core.networks.weights import load_weights
from ssl_core.schema.run import RunConfig


def build(config: RunConfig, teacher: Encoder | None = None, fresh: bool = False) -> Method:
    """The method that `config` describes, on the CPU, initialised from torch's global generator.

    Args:
        teacher: a frozen one; default: one that follows the student, where an objective wants a teacher.
        fresh: start from `backbone.weights`, where there are such; else a state is going to be loaded.

    Raises:
        InputError: the network and the objectives do not fit; the weights cannot be used.
    """
    if any(objective.hides for objective in config.all_objectives):
        check_sees_patches(config.backbone.name)
    student = Encoder(config.backbone, config.views.local_crops.size if config.views.local_crops else None)
    if config.optim.layer_decay is not None:
        below_heads(student)
    if fresh and config.backbone.weights is not None:
        load_weights(student, config.backbone.weights)
    cache = config.positives.cache if config.positives.searches else None
    objectives, keys = config.all_objectives, config.objective_keys
    return Method(student, objectives, config.distill, cache, config.optim.epochs, teacher, keys)
