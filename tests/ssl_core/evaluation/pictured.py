"""An untrained tiny encoder on the digits, as evaluators see it."""

import torch

from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images
from ssl_core.evaluation.features import Context
from ssl_core.networks.encoder import Encoder
from ssl_core.schema.run import RunConfig
from ssl_core.use.subject import Subject


def context_of(config: RunConfig, images: Images | None = None) -> Context:
    torch.manual_seed(0)
    encoder = Encoder(config.backbone).eval()
    look = Subject("tiny", encoder, config).look
    return Context(look, encoder, images or open_images(config.data), config, torch.device("cpu"), 0)
