"""Fills the tables of README.md and docs/ from the code: methods, keys, metrics, recipes, and the example package.

python docs/generate.py            write them
python docs/generate.py --check    exit status 1 where a page is stale
"""

import sys
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ssl_core import recipes
from ssl_core.evaluation.metrics import table
from ssl_core.schema.evaluation import EvaluatorConfig
from ssl_core.schema.objectives import ObjectiveConfig
from ssl_core.schema.run import RunConfig
from ssl_core.schema.types import Key

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "tests" / "example_package" / "strata_example"
BEGIN, END = "<!-- generated: {} -->", "<!-- end -->"
METHODS = {  # what it predicts, negatives, teacher, recipe, paper, reached there on ImageNet
    "simclr": ("the other view", "all other images", "none", "simclr", "2002.05709", "k-NN 57.8 % (SDSSL)"),
    "byol": ("the teacher's other view", "none", "EMA", "byol", "2006.07733", "k-NN 66.0 % (SDSSL)"),
    "mocov3": (
        "the teacher's other view",
        "other images",
        "EMA",
        "mocov3",
        "2104.02057",
        "k-NN 66.5 % (SDSSL)",
    ),
    "simsiam": (
        "the own other view, no gradient",
        "none",
        "none",
        "simsiam",
        "2011.10566",
        "linear 68.1 % (ResNet-50)",
    ),
    "dino": ("the teacher's distribution over prototypes", "none", "EMA", "dino", "2104.14294", "see the recipe"),
    "ijepa": ("the teacher's last layer, where hidden", "none", "EMA", "ijepa", "2301.08243", "see the recipe"),
    "mae": ("pixels, where hidden", "none", "none", "mae", "2111.06377", "linear 68.0 % (ViT-B, 1600 epochs)"),
    "bootleg": (
        "several teacher layers, where hidden",
        "none",
        "EMA",
        "bootleg",
        "2603.15553",
        "see the recipe",
    ),
}


def methods() -> str:
    ours = [kind for kind in ObjectiveConfig.known.values() if kind.__module__.startswith("ssl_core.")]
    head = ("`framework.name`", "predicts", "negatives", "teacher", "recipe", "paper", "reached there")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for kind in ours:
        name = get_args(kind.model_fields["name"].annotation)[0]
        predicts, negatives, teacher, recipe, paper, reached = METHODS[name]
        link = f"[{paper}](https://arxiv.org/abs/{paper})"
        rows.append(f"| `{name}` | {predicts} | {negatives} | {teacher} | `{recipe}` | {link} | {reached} |")
    return "\n".join(rows)


def metrics() -> str:
    rows = ["| metric | better | |", "|---|---|---|"]
    better = {True: "higher", False: "lower", None: ""}
    for metric in table().values():
        name = f"`{metric.name}/last`, `/best`, `/layer_01` …" if metric.per_layer else f"`{metric.name}`"
        labels = "; needs labels" if metric.needs_labels else ""
        rows.append(f"| {name} | {better[metric.higher]} | {metric.meaning}{labels} |")
    return "\n".join(rows)


def keys() -> str:
    parts = []
    for name, field in RunConfig.model_fields.items():
        models = _sections(name, field)
        if not models:
            parts.append(f"- {_line(name, field, RunConfig)}")
    for name, field in RunConfig.model_fields.items():
        for model in _sections(name, field):
            kind = _kind(model)
            several = name in ("framework", "evaluation", "objectives")
            parts.append(f"\n## {name}{f': {kind}' if several else ''}\n")
            if model.__doc__ and not model.__doc__.startswith("!!!"):
                parts.append(" ".join(model.__doc__.split()) + "\n")
            parts += [f"- {line}" for line in _lines(model, "")]
    return "\n".join(parts).strip()


def _kind(model: type[BaseModel]) -> str:
    """`knn`, `dino`: the one value that a section's `kind` or `name` has."""
    for key in ("kind", "name"):
        values = get_args(model.model_fields[key].annotation) if key in model.model_fields else ()
        if len(values) == 1 and isinstance(values[0], str):
            return values[0]
    return ""


def _sections(name: str, field: FieldInfo) -> list[type[BaseModel]]:
    if name == "objectives":
        return []
    if name == "framework":
        return [kind for kind in ObjectiveConfig.known.values() if kind.__module__.startswith("ssl_core.")]
    if name == "evaluation":
        return [kind for kind in EvaluatorConfig.known.values() if kind.__module__.startswith("ssl_core.")]
    return [part for part in (field.annotation, *get_args(field.annotation)) if _is_section(part)]


def _is_section(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, BaseModel)


def _lines(model: type[BaseModel], prefix: str) -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        below = [part for part in (field.annotation, *get_args(field.annotation)) if _is_section(part)]
        found.append(_line(prefix + name, field, model))
        for section in below if len(below) == 1 and len(below[0].model_fields) > 1 else ():
            found += [f"  - {line}" for line in _lines(section, f"{prefix}{name}.")]
    return found


def _line(name: str, field: FieldInfo, model: type[BaseModel]) -> str:
    key = next((item for item in field.metadata if isinstance(item, Key)), model.key)
    default = field.default
    if field.default_factory is not None:
        default = field.default_factory()
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    plain = default is not PydanticUndefined and default is not None and not isinstance(default, (dict, list))
    shown = f" = `{default}`" if plain else ""
    marks = ["science" if key.science else "operation", *(["tunable"] if key.in_mid_run else [])]
    meaning = f": {field.description}" if field.description else ""
    return f"`{name}`{shown} *({', '.join(marks)})*{meaning}"


def recipe_table() -> str:
    rows = [f"| `{name}` | {recipes.title(name)} |" for name in recipes.names()]
    return "\n".join(["| recipe | |", "|---|---|", *rows])


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
    "metrics": metrics,
    "keys": keys,
    "recipes": recipe_table,
    "example-section": lambda: _parts(("schema.py", "class BarlowLikeConfig")),
    "example-objective": lambda: _python((EXAMPLE / "barlow_like.py").read_text()),
    "example-evaluator": lambda: _parts(("schema.py", "class NormsConfig"), ("norms.py", "class Norms")),
    "example-source": lambda: _parts(("sources.py", "class Stripes"), ("sources.py", "def stripes")),
}


def filled(text: str) -> str:
    for name, make in BLOCKS.items():
        begin = BEGIN.format(name)
        if begin in text:
            before, rest = text.split(begin, 1)
            text = f"{before}{begin}\n{make()}\n{END}{rest.split(END, 1)[1]}"
    return text


def main() -> int:
    stale = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text()
        if (new := filled(text)) != text:
            stale.append(page)
            if "--check" not in sys.argv:
                page.write_text(new)
    for page in stale:
        print(
            f"{page.relative_to(ROOT)}: {'stale; run python docs/generate.py' if '--check' in sys.argv else 'written'}"
        )
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
