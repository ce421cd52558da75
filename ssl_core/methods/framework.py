"""What a two-view framework has to say; everything else is written once, in `two_view`."""

from collections.abc import Iterable, Sequence
from typing import ClassVar

from torch import Tensor, nn

from ssl_core.networks.heads import LayerHeads, LayerMLP
from ssl_core.schema.objectives import FrameworkBase


class Framework(nn.Module):
    """The heads on a layer's features, where targets come from, one direction's loss, how directions add up."""

    ema_teacher: ClassVar[bool]
    """Targets come from an EMA teacher; otherwise from the student's own other view."""
    evaluates_teacher: ClassVar[bool] = False
    """The teacher is the encoder that is evaluated and exported."""
    stop_gradient: ClassVar[bool] = False
    """No gradient flows into the student's own projections as targets."""
    predictor: ClassVar[bool]
    projector_layers: int = 3
    """Linear maps of the last layer's projector."""
    constant_predictor_lr: bool = False
    """The learning rate of predictors stays at its peak."""
    output_norm: ClassVar[bool] = True
    gathers_targets: ClassVar[bool] = False
    """The loss needs the targets of all ranks, as negatives."""
    joint_views: ClassVar[bool] = False
    """Views share one batch-norm batch: those of one size in the backbone, all of them in the heads."""
    sum_directions: ClassVar[bool]
    """The two directions (view 1 → 2, view 2 → 1) are summed; otherwise averaged. With more, twice the mean."""

    def __init__(self, config: FrameworkBase, epochs: int = 1):
        """`epochs` of the whole run: what changes from epoch to epoch depends on it."""
        super().__init__()
        self.config, self.epochs = config, epochs

    def heads(self, widths: Sequence[int], hidden_dim: int, projector_layers: int | None = None) -> LayerHeads:
        """Projectors and predictors for layers of these widths; 0 projector layers are none."""
        depth = self.projector_layers if projector_layers is None else projector_layers
        projector = self.make_projector(widths, hidden_dim, depth) if depth else None
        if depth:
            widths = [self.config.output_dim] * len(widths)
        return LayerHeads(projector, self.make_predictor(widths) if self.predictor else None)

    def make_projector(self, widths: Sequence[int], hidden_dim: int, depth: int) -> nn.Module:
        """As published for SDSSL (Sec. 4.1)."""
        return LayerMLP(widths, hidden_dim, self.config.output_dim, depth, self.output_norm)

    def make_predictor(self, widths: Sequence[int]) -> nn.Module:
        """As published for SDSSL (Sec. 4.1)."""
        return LayerMLP(widths, self.config.hidden_dim, self.config.output_dim, 2, self.output_norm)

    def prepare_targets(self, targets: Tensor, progress: float) -> Tensor:
        """Projections of both views (2, B, D) → targets as `loss` takes them; called once a forward pass."""
        return targets

    def frozen_parameters(self, heads: LayerHeads, progress: float) -> Iterable[nn.Parameter]:
        """Parameters of some heads that are not trained at this progress."""
        return ()

    def loss(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor, first_row: int) -> Tensor:
        """One direction: predictions of one view against targets of the other; (L,).

        Args:
            q_LBD: predictions of L layers for B images.
            other_MD: targets of the other view; of all ranks where `gathers_targets`.
            same_MD: targets of the predictions' own view; for a local crop, of the global view that is not `other`.
            first_row: row of the targets that belongs to image 0 of the B.
        """
        raise NotImplementedError
