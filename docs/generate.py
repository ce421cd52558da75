"""Fills the tables of README.md and docs/ from the code: methods, keys, metrics, recipes, and the example package.

python docs/generate.py            write them
python docs/generate.py --check    exit status 1 where a page is stale
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ssl_core import recipes
from ssl_core.evaluation.metrics import table
from ssl_core.schema.evaluation import EvaluatorConfig
from ssl_core.schema.objectives import ObjectiveConfig
from ssl_core.schema.registry import Registered
from ssl_core.schema.run import RunConfig
from ssl_core.schema.types import EveryN, Key

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests" / "example_package" / "strata_example"
BEGIN, END = "<!-- generated: {} -->", "<!-- end -->"


@dataclass(frozen=True)
class Told:
    """What the code does not know of a method.

    Attributes:
        paper: its number on arXiv.
        reached: what was published on ImageNet, by whom, with what; figures are those of the recipes' comments.
        further: the same with SDSSL or AdaSim.
    """

    title: str
    predicts: str
    negatives: str
    teacher: str
    heads: str
    paper: str
    reached: str
    further: str = ""


METHODS = {
    "simclr": Told(
        "SimCLR",
        "the other view",
        "both views of all other images",
        "none",
        "projector",
        "2002.05709",
        "k-NN 57.8 %, linear 62.1 % (SDSSL: ViT-S/16, 300 epochs)",
        "SDSSL: 59.1, 65.0 %",
    ),
    "byol": Told(
        "BYOL",
        "the teacher's other view",
        "none",
        "EMA",
        "projector, predictor",
        "2006.07733",
        "k-NN 66.0 %, linear 70.3 % (SDSSL: ViT-S/16, 300 epochs)",
        "SDSSL: 67.2, 71.5 %",
    ),
    "mocov3": Told(
        "MoCo v3",
        "the teacher's other view",
        "the teacher's other view of all other images",
        "EMA",
        "projector, predictor",
        "2104.02057",
        "k-NN 66.5 %, linear 70.0 % (SDSSL: ViT-S/16, 300 epochs)",
        "SDSSL: 68.0, 71.5 %",
    ),
    "simsiam": Told(
        "SimSiam",
        "its own other view, without gradient",
        "none",
        "none",
        "projector, narrow predictor",
        "2011.10566",
        "linear 68.1 % (ResNet-50, 100 epochs); k-NN 57.1 %, linear 68.0 % (AdaSim)",
        "AdaSim: 57.9, 68.1 %",
    ),
    "dino": Told(
        "DINO",
        "the teacher's distribution over prototypes",
        "none",
        "EMA",
        "projector to prototypes",
        "2104.14294",
        "k-NN 68.4 %, linear 71.9 % (AdaSim: two crops, ViT-S/16, 800 epochs)",
        "AdaSim: 70.1, 73.3 %",
    ),
    "ijepa": Told(
        "I-JEPA",
        "the teacher's last layer, of hidden patches",
        "none",
        "EMA",
        "narrow transformer",
        "2301.08243",
        "linear 72.9 % (ViT-B/16, 600 epochs)",
    ),
    "bootleg": Told(
        "Bootleg",
        "several layers of the teacher, of hidden patches",
        "none",
        "EMA",
        "narrow transformer, one head a target layer",
        "2603.15553",
        "10 points more than I-JEPA",
    ),
    "mae": Told(
        "MAE",
        "pixels of hidden patches",
        "none",
        "none",
        "narrow transformer",
        "2111.06377",
        "linear 68.0 % (ViT-B/16, 1600 epochs)",
    ),
}
"""In the order in which they are shown."""


def _table(head: Sequence[str], rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *lines])


def _paper(number: str) -> str:
    return f"[{number}](https://arxiv.org/abs/{number})"


def recipes_of(method: str) -> list[str]:
    """The bundled recipes that train it, plain or distilled, with any positives."""
    return [name for name, trained in _trained().items() if trained == method]


@cache
def _trained() -> dict[str, str]:
    """Bundled recipes to the method that each trains."""
    return {name: recipes.merge(name)["framework"]["name"] for name in recipes.names()}


def methods() -> str:
    head = ("", "`framework.name`", "a network predicts", "negatives", "teacher", "paper")
    rows = [
        (told.title, f"`{name}`", told.predicts, told.negatives, told.teacher, _paper(told.paper))
        for name, told in METHODS.items()
    ]
    return _table(head, rows)


def methods_further() -> str:
    head = ("`framework.name`", "heads", "local crops", "`distill`", "reached on ImageNet", "with", "recipes")
    rows = []
    for name, told in METHODS.items():
        kind = _ours(ObjectiveConfig)[name]
        assert issubclass(kind, ObjectiveConfig)
        with_crops, layered = ("yes" if can else "no" for can in (kind.crops, kind.layered))
        listed = ", ".join(f"`{recipe}`" for recipe in recipes_of(name))
        rows.append((f"`{name}`", told.heads, with_crops, layered, told.reached, told.further, listed))
    return _table(head, rows)


def metrics() -> str:
    better = {True: "higher", False: "lower", None: ""}
    rows = []
    for metric in table().values():
        name = f"`{metric.name}/last`, `/best`, `/layer_01` …" if metric.per_layer else f"`{metric.name}`"
        labels = "; needs labels" if metric.needs_labels else ""
        rows.append((name, better[metric.higher], f"{metric.meaning}{labels}"))
    return _table(("metric", "better", ""), rows)


def keys() -> str:
    """A table of the keys that stand alone, then one of each section; of each kind, where there are several."""
    parts = []
    alone = {name: field for name, field in RunConfig.model_fields.items() if not _kinds(name, field)}
    parts.append(_table(KEY_HEAD, [_row(name, field, field.get_default(), RunConfig) for name, field in alone.items()]))
    for name, field in RunConfig.model_fields.items():
        for kind, section in _kinds(name, field).items():
            parts.append(f"## {name}{f': {kind}' if kind else ''}")
            if section.__doc__ and not section.__doc__.startswith("!!!"):
                parts.append(" ".join(section.__doc__.split()))
            parts.append(_table(KEY_HEAD, list(_rows(section, "", None))))
    return "\n\n".join(parts)


KEY_HEAD = ("key", "default", "for", "")


def _ours(base: type[Registered]) -> dict[str, type[Registered]]:
    """The registered sections that come with Strata."""
    return {name: kind for name, kind in base.known.items() if kind.__module__.startswith("ssl_core.")}


def _kinds(name: str, field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The sections that a key of `RunConfig` can be, by kind."""
    if name == "framework":
        return {method: _ours(ObjectiveConfig)[method] for method in METHODS}
    if name == "evaluation":
        return dict(_ours(EvaluatorConfig))
    sections = _sections(field.annotation) if name != "objectives" else []
    return {"": sections[0]} if sections else {}


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The sections in a type; a choice of layers is a value, not a section."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [] if annotation is EveryN else [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _rows(section: type[BaseModel], prefix: str, given: BaseModel | None, only: str = "") -> Iterator[Sequence[str]]:
    """A row a key, with the keys of sections below it.

    Args:
        given: has the defaults, where they are not the section's own.
        only: the kind of section that has these keys, where there are several.
    """
    for name, field in section.model_fields.items():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            continue  # `kind: blocks` says which section it is
        default = getattr(given, name) if given is not None else field.get_default(call_default_factory=True)
        below = _sections(field.annotation)
        kinds = [_tag(kind) for kind in below] if len(below) > 1 else []
        if not below or default is None:
            yield _row(prefix + name, field, default, section, only)
        elif kinds:
            yield _row(f"{prefix}{name}.kind", field, default.kind, section, only, kinds)
        for kind in below:
            own = default if isinstance(default, kind) else None
            yield from _rows(kind, f"{prefix}{name}.", own, _tag(kind) if kinds else only)


def _tag(section: type[BaseModel]) -> str:
    return str(get_args(section.model_fields["kind"].annotation)[0])


def _row(
    name: str,
    field: FieldInfo,
    default: Any,
    section: type[BaseModel],
    only: str = "",
    choices: Sequence[Any] = (),
) -> Sequence[str]:
    key = next((item for item in field.metadata if isinstance(item, Key)), getattr(section, "key", Key()))
    listed = " or ".join(f"`{recipes.typed(choice)}`" for choice in choices or _choices(field.annotation))
    meaning = "; ".join(filter(None, [listed, field.description]))
    meaning = f"with `{only}`: {meaning}" if only else meaning
    shown = "" if default is PydanticUndefined else f"`{recipes.typed(default)}`"
    return (f"`{name}`", shown, str(key), meaning)


def _choices(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return ()


def recipe_table() -> str:
    return _table(("recipe", ""), [(f"`{name}`", recipes.title(name)) for name in recipes.names()])


def _python(text: str) -> str:
    return f"```python\n{text.strip()}\n```"


def _part(file: str, start: str) -> str:
    """A class or function of the example package."""
    text = (EXAMPLE / file).read_text()
    at = text.index(start)
    end = text.find("\n\n\n", at)
    return text[at:] if end < 0 else text[at:end]


def _parts(*parts: tuple[str, str]) -> str:
    return _python("\n\n\n".join(_part(*part).strip() for part in parts))


BLOCKS = {
    "methods": methods,
    "methods-further": methods_further,
    "metrics": metrics,
    "keys": keys,
    "recipes": recipe_table,
    "example-section": lambda: _parts(("schema.py", "class BarlowLikeConfig")),
    "example-objective": lambda: _python((EXAMPLE / "barlow_like.py").read_text()),
    "example-evaluator": lambda: _parts(("schema.py", "class NormsConfig"), ("norms.py", "class Norms")),
    "example-source": lambda: _parts(("sources.py", "class Stripes"), ("sources.py", "def stripes")),
}


def filled(text: str) -> str:
    """A page with its tables as the code has them now."""
    for name, make in BLOCKS.items():
        begin = BEGIN.format(name)
        if begin in text:
            before, rest = text.split(begin, 1)
            text = f"{before}{begin}\n{make()}\n{END}{rest.split(END, 1)[1]}"
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description="Fills the tables of README.md and docs/ from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 where a page is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="the folder with README.md and docs/")
    words = parser.parse_args()
    stale = False
    for page in (words.root / "README.md", *sorted((words.root / "docs").rglob("*.md"))):
        text = page.read_text()
        if (new := filled(text)) == text:
            continue
        stale = True
        if not words.check:
            page.write_text(new)
        said = "stale; run python docs/generate.py" if words.check else "written"
        print(f"{page.relative_to(words.root)}: {said}")
    return int(stale and words.check)


if __name__ == "__main__":
    sys.exit(main())
