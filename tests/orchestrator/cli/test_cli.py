"""The command line: what it says, and its exit status."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

import orchestrator
from orchestrator.cli.options import split
from orchestrator.runs.display import say
from orchestrator.runs.folder import new_run
from orchestrator.runs.record import pretrain
from orchestrator.tracking.store import Store
from ssl_core import recipes
from ssl_core.errors import InputError


def said_without_heavy_imports(option: str) -> list[str]:
    """The lines that `strata OPTION` prints, of which none takes an import of seconds."""
    code = (
        "import sys; from orchestrator.cli.main import app\n"
        "from typer.testing import CliRunner\n"
        f"done = CliRunner().invoke(app, ['{option}'])\n"
        "assert done.exit_code == 0\n"
        "print(done.output)\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *said, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    return [line for line in said if line]


def test_help_needs_no_heavy_import() -> None:
    assert said_without_heavy_imports("--help")


def test_help_lists_the_commands(strata) -> None:
    done = strata("--help")
    assert done.returncode == 0
    for command in ("pretrain", "sweep", "report", "recipes", "show", "ui", "doctor"):
        assert command in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["optim.lrr=1"], "did you mean optim.lr?"),
        (["optim.epochs=ten"], "optim.epochs"),
        (["data.train=~nobody-of-this-name/x"], "no such user"),
        (["smal-mocov3"], "did you mean small-mocov3?"),
        (["small-mocov3"], "data.train: missing"),
        (["data.train=/no/such/folder"], "/no/such/folder does not exist"),
        (["backbone.patch_size=7"], "does not divide"),
        (["backbone.weights=none.pth"], "none.pth: no such file or folder"),
        (["--resume", "nowhere"], "no run's folder"),
        (["demo", "small-mocov3"], "one recipe at a time"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_wrong_input_ends_with_status_2_and_leaves_nothing(strata, tmp_path: Path, arguments, expected) -> None:
    done = strata("pretrain", *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("distill.layers=[1, 9]", r"\[9\] of a backbone with layers 1 to 6"),
        ("backbone.name=vit_tinny", "vit_tiny_patch16_224"),
        ("backbone.kwargs.norm_layer=nope", r"timm cannot build .* with .*'norm_layer': 'nope'"),
        ("optim.batch_size=100000", "more than the 4000 images"),
    ],
)
def test_what_only_torch_and_the_images_tell_is_found_before_work_starts(
    ray_session: None, tmp_path: Path, setting: str, expected: str
) -> None:
    with pytest.raises(InputError, match=expected):
        pretrain(new_run(recipes.load("demo", [setting]), tmp_path / "run"), Console(quiet=True), started=0.0)
    assert list(tmp_path.iterdir()) == []


def test_versions_are_told_without_an_import_of_what_they_are_of() -> None:
    found = dict(line.split() for line in said_without_heavy_imports("--version"))
    for name, package in (("strata", "strata-ssl"), ("torch", "torch"), ("ray", "ray"), ("mlflow", "mlflow")):
        assert found[name] == version(package)
    assert found["python"] == platform.python_version()


def test_nothing_is_told_to_the_makers_of_what_it_stands_on() -> None:
    code = (
        "import orchestrator\n"
        "from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY as silent\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "print(silent, is_telemetry_disabled(), usage_stats_enabled())"
    )
    clean = {key: value for key, value in os.environ.items() if key not in orchestrator.SILENT}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean)
    assert done.stdout.split() == ["True", "True", "False"]
    chosen = {**clean, "RAY_USAGE_STATS_ENABLED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=chosen)
    assert done.stdout.split()[2] == "True"


def test_a_user_without_a_home_has_no_token_and_can_use_mlflow(tmp_path: Path) -> None:
    lost = "import pwd\ndef nobody(uid): raise KeyError(uid)\npwd.getpwuid = nobody\n"
    (tmp_path / "sitecustomize.py").write_text(lost)
    code = (
        "import pathlib, orchestrator.cli.main, orchestrator.tracking.mlflow\n"
        "import mlflow\n"
        "from orchestrator.cluster.token import has_token\n"
        "print(pathlib.Path.home(), has_token())"
    )
    env = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME")}
    env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), env.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["/", "False"], done.stderr


def test_brackets_colons_and_odd_signs_of_a_path_stand_as_they_are(strata, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    place = "/d/[red]x[/b]:smile:[/]"
    assert place in strata("show", "demo", f"data.train={place}").stdout
    done = strata("pretrain", f"data.train={place}", "--output", "runs[/b]")
    assert f"→ {tmp_path}/runs[/b]" in done.stdout
    assert f"{place} does not exist" in done.stderr
    console = Console(record=True, width=20)
    say(console, "[bold]{path}[/bold] and {path}", path="a[/bold]:x:\\")
    assert console.export_text() == "a[/bold]:x:\\ and a[/bold]:x:\\\n"


def test_signs_that_the_terminal_cannot_take_end_nothing(strata, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = strata("pretrain", "data.train=/no/α")
    assert done.returncode == 2
    assert "(\\u03b1 1)" in done.stdout
    assert "/no/\\u03b1 does not exist" in done.stderr
    shown = strata("show", "demo", "--explain")
    assert shown.returncode == 0, shown.stderr
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    for words in (["data.train=caf\udce9"], ["--output", "caf\udce9"], ["caf\udce9.yaml"]):
        done = strata("pretrain", *words)
        assert done.returncode == 2
        assert "caf\\udce9" in done.stderr


def test_a_file_is_a_recipe_whatever_its_name(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "lr=0.1" / "config.yaml").write_text("extends: demo\n")
    assert split(["lr=0.1/config.yaml", "seed=1"]) == ("lr=0.1/config.yaml", ["seed=1"])
    assert split(["lr=0.2/config.yaml"]) == (None, ["lr=0.2/config.yaml"])
    assert split([f"name={'x' * 5000}"])[0] is None
    with pytest.raises(InputError, match="one recipe at a time"):
        split(["demo", "lr=0.1/config.yaml"])


def test_debug_shows_the_traceback(strata) -> None:
    assert "Traceback" in strata("pretrain", "optim.lrr=1", "--debug").stderr


def test_the_file_and_line_of_a_wrong_key_are_named(strata, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("extends: demo\noptim:\n  epochs: 3\n  warmup: 1\n")
    error = strata("pretrain", "mine.yaml").stderr
    assert "mine.yaml:4" in error
    assert "optim.warmup_epochs" in error


def test_a_folder_in_use_is_refused(strata, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("keep me")
    done = strata("pretrain", "--output", "run")
    assert done.returncode == 2
    assert "not empty" in done.stderr
    assert (tmp_path / "run" / "precious.txt").read_text() == "keep me"


def test_recipes_are_listed_with_their_titles(strata) -> None:
    listed = strata("recipes").stdout
    for name in recipes.names():
        assert name in listed


def test_show_marks_what_differs_from_the_defaults(strata) -> None:
    lines = strata("show", "small-sd-mocov3", "optim.epochs=7").stdout.splitlines()
    changed = {line.split()[1]: line for line in lines if line.startswith("*")}
    assert "7" in changed["optim.epochs"]
    assert "optim.accumulate" not in changed
    assert changed["optim.epochs"].split()[2:4] == ["7", "science"]


def test_doctor_names_what_it_looked_at(strata) -> None:
    report = strata("doctor").stdout
    for what in ("torch", "ray", "faiss", "disk", "MLflow store"):
        assert what in report


def test_ui_without_a_store_says_so(strata, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    assert Store.of().uri == f"sqlite:///{tmp_path}/strata-runs/mlflow.db"
    done = strata("ui")
    assert done.returncode == 2
    assert "no MLflow store" in done.stderr


def test_show_explains_the_keys(strata) -> None:
    shown = strata("show", "demo", "--explain").stdout
    assert "  distill.layers=all   science, shapes\n      all, " in shown
    assert "weight of the predictors'" in " ".join(shown.split())


def test_show_checks_what_torch_alone_knows_where_it_is_asked_to(strata) -> None:
    words = ("show", "small-mae", "data.train=bundled:digits", "data.limit=64", "optim.batch_size=16")
    unknown = (*words, "backbone.name=vit_tinny")
    assert strata(*unknown).returncode == 0
    checked = strata(*unknown, "--check")
    assert checked.returncode == 2
    assert "backbone.name: timm has no model vit_tinny" in checked.stderr
    assert "fit: 64 training images" in strata(*words, "--check").stdout
    assert "data.train: missing" in strata("show", "small-mae", "--check").stderr


def test_neighbors_without_any_says_which_runs_have_them(strata, tmp_path: Path):
    assert strata("neighbors", str(tmp_path)).returncode == 2
    (tmp_path / "config.yaml").write_text(recipes.dump(recipes.load("demo")))
    done = strata("neighbors", str(tmp_path))
    assert done.returncode == 2
    assert "positives.kind=adasim" in done.stderr
    wrong = strata("neighbors", str(tmp_path), "--image", "no-such.png")
    assert wrong.returncode == 2
    assert "no-such.png" in wrong.stderr
