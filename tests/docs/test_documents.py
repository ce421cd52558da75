"""The documents are whole: generated tables are current, links lead somewhere, the README can be read at one go."""

import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_core import recipes
from ssl_core.schema.objectives import ObjectiveConfig
from tests.docs.pages import FENCED, PAGES, ROOT

GENERATE = runpy.run_path(str(ROOT / "docs/generate.py"))


def generate(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "docs/generate.py"), "--root", str(root), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_generated_tables_are_current() -> None:
    done = generate(ROOT, "--check")
    assert done.returncode == 0, done.stdout


def test_a_stale_page_is_named_and_mended(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "README.md", tmp_path)
    page = tmp_path / "docs" / "keys.md"
    right = page.read_text()
    page.write_text(right.replace("| `epochs` | `100` |", "| `epochs` | `101` |"))
    assert page.read_text() != right
    done = generate(tmp_path, "--check")
    assert (done.returncode, done.stdout.split(":")[0]) == (1, "docs/keys.md")
    assert generate(tmp_path).returncode == 0
    assert page.read_text() == right


def test_every_table_is_shown_somewhere() -> None:
    shown = {name for page in PAGES for name in re.findall(r"<!-- generated: (\S+) -->", page.read_text())}
    assert shown == set(GENERATE["BLOCKS"])


def test_every_method_is_told_of() -> None:
    ours = {name for name, kind in ObjectiveConfig.known.items() if kind.__module__.startswith("ssl_core.")}
    assert set(GENERATE["METHODS"]) == ours
    told = {recipe for name in ours for recipe in GENERATE["recipes_of"](name)}
    assert told == set(recipes.names())


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
            titles = re.findall(r"^#+ (.*)$", FENCED.sub("", there.read_text()), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_every_page_is_reached_from_the_readme() -> None:
    reached, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        reached.add(page)
        targets = re.findall(r"\]\(([^)#]+\.md)", page.read_text())
        there = {(page.parent / target).resolve() for target in targets if not target.startswith("http")}
        left += there - reached
    assert reached == set(PAGES)


PATH = re.compile(
    r"`((?:ssl_core|orchestrator|tests|docs|search_spaces|clusters)/[\w./-]*|"
    r"(?:schema|recipes|data|networks|objectives|methods|positives|evaluation|training|pictures)/[\w./-]+\.py)`"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        assert (ROOT / path).exists() or (ROOT / "ssl_core" / path).exists(), path
