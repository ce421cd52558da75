"""What a run was trained on, as MLflow's page shows it."""

import hashlib
import json
from typing import TYPE_CHECKING

from ssl_core.schema.data import scheme_of
from ssl_core.schema.urls import without_credentials

if TYPE_CHECKING:
    from ssl_core.data.sources.base import Source

SAMPLED = 1024  # images whose names the digest holds
LONGEST = 16_000  # characters that MLflow takes of a source


def describe(paths: str | list[str], source: "Source", context: str) -> dict[str, str]:
    """A data set as an entry of an outbox.

    Args:
        paths: where it is, as the configuration says.
        context: `training` or `validation`.
    """
    listed = [without_credentials(path).partition("?")[0] for path in ([paths] if isinstance(paths, str) else paths)]
    first = listed[0].rstrip("/")
    name = first if scheme_of(first) else first.rpartition("/")[2] or first
    return {
        "name": name if len(listed) == 1 else f"{name} and {len(listed) - 1} more",
        "digest": _digest(source, listed),
        "source_type": "local" if "://" not in first else first.partition("://")[0],
        "source": json.dumps({"uri": listed[0] if len(listed) == 1 else listed})[:LONGEST],
        "profile": json.dumps({"num_images": len(source), "num_classes": len(source.classes)}),
        "context": context,
    }


def _digest(source: "Source", paths: list[str]) -> str:
    """16 hexadecimal digits that are the same for the same images below another folder.

    Of many images, a sample's names tell; what is in the files is not read.
    """
    digest = hashlib.sha256(f"{len(source)} {list(source.classes)}".encode())
    for place in range(0, len(source), max(1, len(source) // SAMPLED)):
        name = source.where(place)
        for path in paths:
            name = name.removeprefix(path)
        digest.update(name.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]
