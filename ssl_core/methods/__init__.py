"""Methods: what a network learns from. `build` turns a configuration into a trainable module."""

from ssl_core.methods.bootleg import Bootleg
from ssl_core.methods.byol import BYOL
from ssl_core.methods.dino import DINO
from ssl_core.methods.ijepa import IJEPA
from ssl_core.methods.mae import MAE
from ssl_core.methods.method import Method
from ssl_core.methods.mocov3 import MoCoV3
from ssl_core.methods.simclr import SimCLR
from ssl_core.methods.simsiam import SimSiam
from ssl_core.methods.two_view import TwoView
from ssl_core.schema.run import RunConfig

MASKED = {"ijepa": IJEPA, "mae": MAE, "bootleg": Bootleg}
FRAMEWORKS = {"simclr": SimCLR, "byol": BYOL, "mocov3": MoCoV3, "simsiam": SimSiam, "dino": DINO}


def build(config: RunConfig) -> Method:
    """The method that `config` describes, on the CPU, initialised from torch's global generator."""
    if config.masked:
        return config.framework.load()(config.backbone, config.framework)
    framework = config.framework.load()(config.framework, config.optim.epochs)
    cache = config.positives.cache if config.positives.searches else None
    local_size = config.views.local_crops.size if config.views.local_crops else None
    return TwoView(config.backbone, framework, config.distill, cache, local_size)
