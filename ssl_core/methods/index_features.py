"""What stands for an image in the neighbour search, taken from the passes that a step makes anyhow."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssl_core.methods.passes import Networks
from ssl_core.networks.layers import Want
from ssl_core.objectives.base import Network, Objective, See, Seen
from ssl_core.schema.positives import CacheConfig


class IndexFeatures:
    """Features of the last layer, or an objective's projections, as `positives.cache` says.

    Attributes:
        dim: their width.

    Args:
        objective: compares views; the features are those of its passes.
        networks: the student's or the teacher's; the student's where there is no teacher.
    """

    def __init__(self, config: CacheConfig, objective: Objective, networks: Networks):
        self.config, self.objective = config, objective
        self.network: Network = "teacher" if config.source == "teacher" and networks.teacher is not None else "student"
        encoder = networks.encoder(self.network)
        self.depth = encoder.depth
        self.dim = objective.embedding_dim if config.feature == "projector" else encoder.widths[-1]

    def needs(self) -> See:
        """What it wants to see, in the same pass as the objective."""
        joint = next((see.joint for see in self.objective.needs() if see.views == "global"), False)
        return See(self.network, Want(pooled=(self.depth,)), joint=joint)

    def of(self, seen: Seen, targets: object) -> Tensor:
        """(B, D), float32: of the first view, or the mean of both where both are of the image itself."""
        if self.config.feature == "projector":
            both = self.objective.embed(seen, self.network, targets).float()
        else:
            both = seen.of(self.network).pooled[self.depth].detach().float().unflatten(0, (2, -1))
        if self.config.view == "first":
            return both[0]
        mean, partners = F.normalize(both, dim=-1).mean(dim=0), seen.batch.partners
        if partners is None:
            return mean
        # What a partner looks like must not stand for the image: two that are paired would become one.
        own = (partners == seen.batch.ids).to(mean.device)
        return torch.where(own[:, None], mean, both[0])
