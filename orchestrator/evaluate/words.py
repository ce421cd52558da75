"""What was typed behind `strata evaluate`, `embed` and `export`: encoders, and keys to set."""

from collections.abc import Sequence

from ssl_core.files import as_path
from ssl_core.networks.weights import is_hub


def names_and_keys(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Encoders by whatever names them, and `KEY=VALUE` words; MLflow run ids become their folders."""
    whats = [word for word in words if "=" not in word or as_path(word).exists()]
    return [_folder(word) for word in whats], [word for word in words if word not in whats]


def _folder(what: str) -> str:
    """The folder of an MLflow run's, where that is what somebody typed."""
    if is_hub(what) or as_path(what).exists() or not _is_run_id(what):
        return what
    from orchestrator.tracking.mlflow import folder_of

    return str(folder_of(what))


def _is_run_id(word: str) -> bool:
    return len(word) == 32 and all(sign in "0123456789abcdef" for sign in word)
