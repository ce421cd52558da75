"""What the documents show works: tables are current, links lead somewhere, commands parse, snippets run."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from orchestrator.sweeps.file import Sweep
from ssl_core import recipes
from ssl_core.data.sources import open_images
from ssl_core.training.loop import Pretraining

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PLACES = {"FOLDER": "bundled:digits", "TRAIN.parquet": "bundled:digits", "VAL.parquet": "bundled:digits"}


def blocks(*languages: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for language, text in FENCED.findall(page.read_text()):
            if language in languages:
                yield page, text


def commands() -> list[str]:
    """Every `strata …` line of a block, and in running text those without an ellipsis."""
    lines = [line for _, text in blocks("", "sh", "bash") for line in text.splitlines()]
    inline = [code for page in PAGES for code in re.findall(r"`(strata [^`]*)`", page.read_text())]
    found = (part.partition("  #")[0].strip() for line in (*lines, *inline) for part in line.split(" && "))
    foreign = "barlow-like"  # of the example package, whose own test knows it
    found = (line for line in found if foreign not in line)
    return sorted({line for line in found if line.startswith("strata ") and not re.search(r"…|\[|DIR|RUN$|N$", line)})


def test_generated_tables_are_current() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_readme_can_be_read_at_one_go() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCED.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file) if file else page
        assert there.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_there_are_commands() -> None:
    found = commands()
    assert len(found) > 15
    assert {line.split()[1] for line in found} >= {"pretrain", "sweep", "submit", "doctor", "ui", "show"}


@pytest.mark.parametrize("line", commands())
def test_commands_are_ones_that_strata_knows(line: str) -> None:
    import click
    import typer

    from orchestrator.cli.main import app

    for name, place in PLACES.items():
        line = line.replace(name, place)
    words = [word for word in shlex.split(line)[1:] if not word.startswith("IMAGENET")]
    group = typer.main.get_command(app)
    command = group.commands[words[0]]
    rest = words[1:]
    command.parse_args(click.Context(command, info_name=words[0], resilient_parsing=True), list(rest))
    if words[0] == "submit" and rest:  # what is sent along is a command of its own
        words, rest = rest, rest[1:]
    given = [word for word in rest if not word.startswith("-")]
    names, keys = [word for word in given if "=" not in word], [word for word in given if "=" in word]
    if words[0] in ("pretrain", "show") and "--resume" not in rest:
        recipe = next((name for name in names if not name.startswith("/")), "demo")
        if not recipe.endswith(".yaml") and "_" not in recipe:
            missing = [] if any(key.startswith("data.train") for key in keys) else ["data.train=bundled:digits"]
            recipes.load(recipe if recipe != "RECIPE" else "demo", [*missing, *keys])
    if words[0] == "sweep" and names and names[0].startswith("search_spaces"):
        sweep = Sweep(ROOT / names[0], keys)
        sweep.run_config(sweep.config.samples(1, 0)[0] if sweep.config.planned() is None else sweep.config.planned()[0])


def test_a_wrong_command_would_be_seen() -> None:
    with pytest.raises(KeyError):
        test_commands_are_ones_that_strata_knows("strata pretrian demo")
    with pytest.raises(Exception, match=r"optim\.epoch"):
        test_commands_are_ones_that_strata_knows("strata pretrain demo optim.epoch=3")


@pytest.mark.parametrize(("page", "text"), blocks("yaml"), ids=lambda value: getattr(value, "name", ""))
def test_yaml_snippets_are_recipes_or_spaces(page: Path, text: str, tmp_path: Path) -> None:
    values = yaml.safe_load(text)
    file = tmp_path / "snippet.yaml"
    file.write_text(text)
    if "space" in values:
        sweep = Sweep(file, [])
        sweep.run_config(sweep.config.samples(1, 0)[0])
    elif "extends" in values:
        recipes.load(file, [] if "data" in values else ["data.train=bundled:digits"])
    else:
        recipes.load("demo", [f"{key}={value}" for key, value in values.items()])


PYTHON = {page: [text for at, text in blocks("python") if at == page] for page, _ in blocks("python")}


@pytest.mark.parametrize("page", [page for page in PYTHON if page.name != "extending.md"], ids=lambda page: page.name)
def test_python_snippets_run_one_after_another(page: Path, tmp_path: Path) -> None:
    """Those of extending.md are files of the example package, whose own test runs them."""
    config = recipes.load("small-simclr", ["data.train=bundled:digits", "data.limit=64", "data.workers=0"])
    encoder = Pretraining(config, open_images(config.data), loaders=0).method.encoder.model
    save_file(encoder.state_dict(), tmp_path / "model.safetensors")
    code = "\n".join(PYTHON[page])
    short = {'"data.train=FOLDER"': '"data.train=bundled:digits", "data.limit=128", "data.workers=0"'}
    short |= {"optim.epochs=3": "optim.epochs=2", "RUN/model": f"{tmp_path}/model"}
    for old, new in short.items():
        code = code.replace(old, new)
    exec(compile(code, str(page), "exec"), {})
