"""Evaluators by the name of a paper or a purpose: YAML files with an `evaluation` list."""

import difflib
from pathlib import Path
from typing import Any

from ssl_core.errors import InputError
from ssl_core.files import as_path, is_file
from ssl_core.recipes.read import read_file

FOLDER = Path(__file__).parent


def names() -> dict[str, str]:
    """The bundled suites, each with its opening comment."""
    found = sorted(FOLDER.glob("*.yaml"))
    return {path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for path in found}


def read(suite: str) -> tuple[Path, list[Any]]:
    """The file of a suite, bundled or somebody's own, and its entries.

    Raises:
        InputError: there is none, or it holds something else.
    """
    bundled = FOLDER / f"{suite}.yaml"
    file = bundled if suite in names() else as_path(suite)
    if not is_file(file):
        near = difflib.get_close_matches(suite, names(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names())}"
        raise InputError(f"--suite: no suite named {suite}, and no such YAML file; {hint}")
    values = read_file(file).values
    entries = values.get("evaluation")
    if set(values) != {"evaluation"} or not isinstance(entries, list) or not entries:
        raise InputError(
            f"{file}: expected a list of evaluators and nothing else, such as `evaluation: [{{kind: knn}}]`"
        )
    return file, entries
