"""What is known of a metric, wherever it is shown, compared or searched for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric, or one a layer.

    Attributes:
        name: as it is logged; per layer, `NAME/layer_03`, `NAME/last` and, where a value is better, `NAME/best`.
        title: for people.
        higher: whether higher is better; None where neither is.
        form: how a value is written, as `str.format` takes it; a share of 1 in per cent.
        needs_labels: there is none without labels.
        per_layer: whether every layer has one.
        meaning: in a line.
        derived: it follows from others, beside which it is not shown.
    """

    name: str
    title: str
    higher: bool | None
    form: str
    needs_labels: bool = False
    per_layer: bool = False
    meaning: str = ""
    derived: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it is shown in per cent."""
        return self.form.endswith("%}")
