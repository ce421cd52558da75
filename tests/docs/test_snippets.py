"""Snippets of Python, YAML and TOML in the documents run, or are read by what reads such files."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from orchestrator.sweeps.file import Sweep
from orchestrator.sweeps.plan import make_plan
from ssl_core import recipes
from ssl_core.data.sources import open_images
from ssl_core.training.loop import Pretraining
from ssl_core.use.export import prepare, timm_folder
from ssl_core.use.subject import Subject
from tests.docs.pages import PAGES, ROOT, Block, blocks
from tests.images import draw_stripes

EXTENDING = ROOT / "docs" / "extending.md"
"""Its Python is taken from the example package, whose own test runs it."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands in a test for the places that snippets name: images of two classes, a run's weights, an export."""
    folder = tmp_path_factory.mktemp("places")
    images = draw_stripes(folder, {"train": 64, "val": 32})
    config = recipes.load("small-sd-simclr", [f"data.train={images / 'train'}", "data.workers=0"])
    encoder = Pretraining(config, open_images(config.data), loaders=0).method.encoder.eval()
    save_file(encoder.model.state_dict(), folder / "model.safetensors")
    (folder / "export").mkdir()
    timm_folder.write(prepare(Subject("x", encoder, config), encoder.depth), folder / "export")
    exported = {"RUN/export/timm": str(folder / "export"), "IMAGE.png": str(next(images.glob("train/*/*.png")))}
    leaves = {f"/data/{name}{suffix}": str(images / part) for name in ("leaves", "birds") for suffix, part in PARTS}
    return {"FOLDER": str(images / "train"), "RUN/model": str(folder / "model"), **exported, **leaves}


PARTS = (("-val", "val"), ("/val", "val"), ("/train", "train"), ("", "train"))


def filled(text: str, places: dict[str, str]) -> str:
    for old, new in places.items():
        text = text.replace(old, new)
    return text


def run_all(snippets: list[Block], places: dict[str, str]) -> None:
    """Run a page's snippets one after another, as a reader would in a notebook."""
    names: dict[str, object] = {}
    for block in snippets:
        # As many empty lines before it as it has in its page: a traceback then names the page's line.
        code = "\n" * (block.line - 1) + filled(block.short(), places)
        exec(compile(code, os.fspath(block.page), "exec"), names)


PYTHON = {page: [block for block in blocks("python") if block.page == page] for page in PAGES}
PYTHON = {page: snippets for page, snippets in PYTHON.items() if snippets and page != EXTENDING}


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
def test_python_runs(page: Path, places: dict[str, str]) -> None:
    run_all(PYTHON[page], places)


def test_python_that_does_not_run_is_seen(places: dict[str, str]) -> None:
    block = PYTHON[ROOT / "README.md"][0]
    with pytest.raises(AttributeError, match="lode"):
        run_all([Block(block.page, 1, "python", block.text.replace(".load", ".lode"), block.note)], places)
    with pytest.raises(ValueError, match=r"no 'optim\.epocks=3'"):
        run_all([Block(block.page, 1, "python", block.text, "optim.epocks=3 → optim.epochs=2")], places)


def read_yaml(text: str, folder: Path, places: dict[str, str]) -> None:
    """A sweep is planned; a recipe, or some keys of one, is loaded."""
    text = filled(text, places)
    file = folder / "snippet.yaml"
    file.write_text(text)
    values = yaml.safe_load(text)
    if "space" in values:
        make_plan(Sweep(file, []))
    elif "extends" in values:
        recipes.load(file, [] if "data" in values else [f"data.train={places['FOLDER']}"])
    else:
        file.write_text(f"extends: demo\n{text}")
        recipes.load(file)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_recipe_or_a_sweep(block: Block, places: dict[str, str], tmp_path: Path) -> None:
    read_yaml(block.short(), tmp_path, places)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("uniform", "unifrom", "did you mean uniform"),
        ("distill.alpha", "distil.alpha", "distil"),
        ("sampler: tpe", "sampler: tp", "tp"),
    ],
)
def test_yaml_with_a_mistake_is_seen(old: str, new: str, message: str, places: dict[str, str], tmp_path: Path) -> None:
    block = next(block for block in blocks("yaml") if "space:" in block.text)
    with pytest.raises(Exception, match=message):
        read_yaml(block.text.replace(old, new), tmp_path, places)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_is_of_the_example_package(block: Block) -> None:
    import tomllib

    whole = tomllib.loads((ROOT / "tests/example_package/pyproject.toml").read_text())["project"]["entry-points"]
    for group, entries in tomllib.loads(block.text)["project"]["entry-points"].items():
        assert entries.items() <= whole[group].items()


def test_python_of_the_example_package_is_generated() -> None:
    text = re.sub(r"<!-- generated: .*?<!-- end -->", "", EXTENDING.read_text(), flags=re.DOTALL)
    assert "```python" not in text


def test_snippets_are_in_languages_that_are_checked() -> None:
    assert not [str(block) for block in blocks("py", "yml", "bash", "shell", "console", "json")]
