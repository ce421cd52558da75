"""What a two-view framework has to say; everything else is written once, in `two_view`."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from ssl_core.config import FrameworkBase
from ssl_core.heads import LayerHeads, LayerMLP


class Framework(nn.Module):
    """The heads on a layer's features, where targets come from, one direction's loss, how directions add up."""

    ema_teacher: ClassVar[bool]
    """Targets come from an EMA teacher; otherwise from the student's own other view, with gradient."""
    predictor: ClassVar[bool]
    output_norm: ClassVar[bool] = True
    gathers_targets: ClassVar[bool] = False
    """The loss needs the targets of all ranks, as negatives."""
    joint_views: ClassVar[bool] = False
    """Both views share one batch-norm batch."""
    sum_directions: ClassVar[bool]
    """Directions (view 1 → 2, view 2 → 1) are summed; otherwise averaged."""

    def __init__(self, config: FrameworkBase):
        super().__init__()
        self.config = config

    def heads(self, widths: Sequence[int], hidden_dim: int, projector_layers: int = 3) -> LayerHeads:
        """Projectors and predictors for layers of these widths (SDSSL Sec. 4.1: 3 and 2 linear maps)."""
        c = self.config
        projector = None
        if projector_layers:
            projector = LayerMLP(widths, hidden_dim, c.output_dim, projector_layers, self.output_norm)
            widths = [c.output_dim] * len(widths)
        predictor = LayerMLP(widths, c.hidden_dim, c.output_dim, 2, self.output_norm) if self.predictor else None
        return LayerHeads(projector, predictor)

    def loss(self, q_LBD: Tensor, other_MD: Tensor, same_MD: Tensor, first_row: int) -> Tensor:
        """One direction: predictions of one view against targets of the other; (L,).

        Args:
            q_LBD: predictions of L layers for B images.
            other_MD: targets of the other view; of all ranks where `gathers_targets`.
            same_MD: targets of the predictions' own view.
            first_row: row of the targets that belongs to image 0 of the B.
        """
        raise NotImplementedError
