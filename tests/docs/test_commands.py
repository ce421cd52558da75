"""Every command in the documents is one that works: its program, its options, its recipe, its keys."""

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from orchestrator.cli.main import app
from orchestrator.cli.options import split
from orchestrator.sweeps.file import Sweep
from orchestrator.sweeps.plan import Plan, make_plan
from ssl_core import recipes
from tests.docs.pages import ROOT, blocks, commands
from tests.images import draw_stripes

COMMANDS = commands()
STRATA = typer.main.get_command(app).commands
FOREIGN = "barlow-like"  # of the example package, whose own test trains it
OTHERS = {"lint-imports", "pip-audit", "ray"}
"""Programs that are not ours and have nothing to be looked up in this repository."""


@dataclass(frozen=True)
class Places:
    """What stands in a test for the places that the documents name."""

    images: Path
    recipe: Path

    def fill(self, line: str) -> str:
        """The line with real folders and files, and a word for each optional part of a synopsis."""
        line = line.replace("[RECIPE]", "demo").replace("[KEY=VALUE …]", "seed=1").replace("--image N", "--image 0")
        line = re.sub(r"\bCOMMAND …", "pretrain demo", line)
        line = re.sub(r"\b(s3|gs)://BUCKET/\S+|IMAGENET/(train|val)|/(data|shared)/images", str(self.images), line)
        line = re.sub(r"\b(FOLDER|DIR|RUN|TRAIN\.parquet|VAL\.parquet)(?=\s|$)", str(self.images), line)
        line = re.sub(r"(?<![\w/])(best|config)\.yaml", str(self.recipe), line)
        line = line.replace("SPACE.yaml", "search_spaces/smoke.yaml").replace("/home/ray/strata/", "")
        line = re.sub(r"\bRECIPE\b", "demo", line)
        if re.match(r"strata (pretrain|sweep)\b", line):
            line = line.replace("…", f"data.train={self.images} data.val={self.images}")
        return line.replace("…", "")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """2,048 images of two classes, as many as the largest batch that a sweep asks for, and a run's configuration."""
    folder = tmp_path_factory.mktemp("places")
    images = draw_stripes(folder, {"images": 1024}) / "images"
    (folder / "recipe.yaml").write_text(recipes.dump(recipes.load("demo", [f"data.train={images}"])))
    return Places(images, folder / "recipe.yaml")


@pytest.fixture(autouse=True)
def _beside_the_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the repository's folder; `--address` sets a variable, which is put back."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("RAY_ADDRESS", "")


def check(line: str, places: Places) -> None:
    """Whether a reader could type this line.

    Raises:
        AssertionError, KeyError: no such program, script, module, extra, marker or command.
        InputError, or what typer raises: an unknown option, recipe or key, a value that is none.
    """
    for part in places.fill(line).split(" && "):
        program, *words = shlex.split(part.rstrip(" &"), comments=True)
        if program == "strata":
            check_strata(words, places)
        elif program == "python":
            check_python(words)
        elif program == "pip":
            check_pip(words)
        elif program == "pytest":
            check_pytest(words)
        elif program == "source":
            check_script(words[0].removeprefix("<("), words[1].removesuffix(")"))
        elif program.startswith("clusters/"):
            check_script(program, words[0])
        elif program == "sbatch":
            script = next(index for index, word in enumerate(words) if word.startswith("clusters/"))
            assert (ROOT / words[script]).is_file(), words[script]
            check_strata(words[script + 1 :], places)
        elif program == "export":
            assert re.match(r"[A-Z_]+=\S+$", words[0]), words
        else:
            assert program in OTHERS, f"{program}: a program that this test knows nothing of"
            if "--" in words:
                check_strata(words[words.index("--") + 2 :], places)


def check_strata(words: list[str], places: Places) -> None:
    name, *rest = words or ["--help"]
    if name in ("--help", "--version"):
        return
    command = STRATA[name]
    if not rest:  # spoken of, or run with nothing
        return
    with command.make_context(name, rest) as context:
        given = dict(context.params)
    if name == "submit":
        check_strata(given["words"] or [], places)
    if name not in ("pretrain", "show", "sweep") or given.get("resume") is not None:
        return
    file, overrides = split(given["words"])
    if name == "sweep":
        assert file is not None, "expected a YAML file"
        plan(file, *overrides)
    else:
        missing = [f"data.train={places.images}"] if name == "show" else []
        recipes.load(file or "demo", [*missing, *overrides])


@cache
def plan(file: str, *overrides: str) -> Plan:
    """What `--dry-run` does: several documents show the same sweep, which is checked once."""
    return make_plan(Sweep(Path(file), overrides))


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert find_spec(words[1]), words[1]
        return
    text = (ROOT / words[0]).read_text()
    if "from paired import" in text:  # the options that some benches have in common
        text += (ROOT / "tests/bench/paired.py").read_text()
    for option in (word for word in words[1:] if word.startswith("--") and word != "--"):
        assert f'"{option}"' in text, f"{words[0]}: no option {option}"


def check_pip(words: list[str]) -> None:
    assert words[0] == "install", words
    text = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"^\.\[(\w+)\]$", "\n".join(words), re.M):
        assert re.search(rf"^{extra} = \[", text, re.M), f"no extra {extra}"


def check_pytest(words: list[str]) -> None:
    text = (ROOT / "pyproject.toml").read_text()
    if "-m" in words:
        assert f'"{words[words.index("-m") + 1]}: ' in text, f"no such marker: {words}"
    for path in (word for word in words if word.startswith("tests/")):
        assert (ROOT / path).exists(), path


def check_script(script: str, command: str) -> None:
    assert re.search(rf"^\s*(\S+ \| )*{command}( \| \S+)*\)", (ROOT / script).read_text(), re.M), (script, command)


OURS = {line: where for line, where in COMMANDS.items() if FOREIGN not in line}


@pytest.mark.parametrize("line", OURS, ids=OURS.values())
def test_every_command_works(line: str, places: Places) -> None:
    check(line, places)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("strata pretrian demo", "pretrian"),
        ("strata pretrain dmeo", "did you mean demo"),
        ("strata pretrain demo --outptu /tmp/x", "No such option"),
        ("strata pretrain demo optim.epoch=3", "optim.epochs"),
        ('strata pretrain bootleg data.train=FOLDER framework.targets="[3, 6"', "targets"),
        ("strata pretrain sd-mocov3", "data.train: missing"),
        ("strata submit --nope pretrain demo", "nope|pretrain"),
        ("strata submit pretrian demo", "pretrian"),
        ("strata submit pretrain demo optim.epoch=3", "optim.epochs"),
        ("strata sweep search_spaces/joint.yaml data.train=FOLDER trails=3", "trails: unknown"),
        ("strata sweep search_spaces/joint.yaml data.train=FOLDER", "knn/last needs labels"),
        ("strata sweep search_spaces/nowhere.yaml", "nowhere"),
        ("strata doctor --nonsense", "No such option"),
        ("sbatch --nodes=4 clusters/slurm.sh pretrian demo", "pretrian"),
        ("source <(clusters/local-two-nodes.sh begin)", "begin"),
        ("python tests/bench/nothing.py", "nothing"),
        ("python tests/bench/sdssl_quality.py --trian X", "--trian"),
        ("python -m tests.nowhere", "nowhere"),
        ("pip install -e '.[tets]'", "tets"),
        ("pytest -m clutser", "clutser"),
        ("stratum pretrain", "stratum"),
    ],
)
def test_a_wrong_command_is_seen(line: str, message: str, places: Places) -> None:
    with pytest.raises(Exception, match=message):
        check(line, places)


def test_commands_of_all_kinds_are_found() -> None:
    known = set(STRATA)
    ours = {line.split()[1] for line in COMMANDS if line.startswith("strata ")}
    assert ours >= known, f"not spoken of in any document: {known - ours}"
    assert any(where.startswith("clusters/") for where in COMMANDS.values())
    assert {"pip", "python", "pytest", "sbatch"} <= {line.split()[0] for line in COMMANDS}


def test_commands_stand_in_blocks_that_are_checked() -> None:
    """A block without a language is what a program prints."""
    for block in blocks(""):
        assert not re.search(r"^(strata|pip|python|pytest|clusters/\S+|ray|export|source) ", block.text, re.M), block


@pytest.mark.parametrize(
    ("words", "expected"),
    [("--help", "pretrain"), ("recipes", "adasim-dino"), ("show sd-mocov3 --explain", "final weight of the hidden")],
)
def test_some_truly_run(words: str, expected: str) -> None:
    done = subprocess.run([sys.executable, "-m", "orchestrator", *words.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in " ".join(done.stdout.split())
