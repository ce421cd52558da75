"""What a metric is called, and how its values by layer are found in a record."""

import re
from collections.abc import Mapping

from ssl_core.schema.evaluation import ACCURACIES


def is_accuracy(metric: str) -> bool:
    """Whether a metric is shown in per cent."""
    return metric.split("/")[0] in ACCURACIES


def layers_of(record: Mapping[str, float], name: str) -> list[float]:
    """The values of `name` for every layer, first to last."""
    keys = sorted(key for key in record if re.fullmatch(rf"{re.escape(name)}/layer_\d+", key))
    return [record[key] for key in keys]
