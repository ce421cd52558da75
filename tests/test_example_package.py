"""A package that adds objectives, an evaluator and a source from outside: none of Strata's files knows it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

PACKAGE = Path(__file__).parent / "example_package"
RUN = """
import json, sys
from contextlib import closing
import torch
from ssl_core import recipes
from ssl_core.data.sources import open_images
from ssl_core.training.events import Listener
from ssl_core.training.loop import Pretraining
from tests.gloo import Ranks


def losses(words, workers=1):
    torch.set_num_threads(1)
    config = recipes.load(words[0], words[1:]).with_workers(workers)
    run = Pretraining(config, open_images(config.data), loaders=0)
    return run.run()[1:]


if __name__ == "__main__":
    cases = json.loads(sys.argv[1])
    with closing(Ranks(2)) as ranks:
        print(json.dumps({name: [losses(words), ranks(losses, words, 2)[0]] for name, words in cases.items()}))
"""
TINY = [
    "data.train=stripes:64",
    "data.workers=0",
    "optim.epochs=2",
    "optim.batch_size=16",
    "evaluation=[{kind: norms}]",
]
TINY += ["backbone.kwargs.depth=3", "backbone.kwargs.embed_dim=32"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Python with the package installed: its modules, and the entry points that its pyproject.toml names."""
    place = tmp_path_factory.mktemp("site")
    about = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    info = place / "strata_example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())])
        for group, entries in about["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n\n".join(groups) + "\n")
    (place / "run.py").write_text(RUN)
    here = Path(__file__).parents[1]
    paths = os.pathsep.join(map(str, [PACKAGE, place, here]))
    return {**os.environ, "PYTHONPATH": paths, "RUN": str(place / "run.py"), "COLUMNS": "200"}


def framework(name: str) -> list[str]:
    return [f"framework.name={name}"]


EVERYTHING = ["views.local_crops={count: 2, size: 16}", "positives={kind: adasim, window: 1}", "distill={}"]
DINO = "{name: dino, output_dim: 32, bottleneck_dim: 16, hidden_dim: 32}"
CASES = {
    "barlow": [*framework("barlow-like"), "distill={anneal: none}"],
    "swav": [*framework("swav-like"), *EVERYTHING],
    "dino and ibot": ["framework=null", f"objectives=[{DINO}, {{name: ibot-like, weight: 0.5}}]"],
}
Records = list[dict[str, float]]


@pytest.fixture(scope="module")
def runs(environment: dict[str, str]) -> dict[str, tuple[Records, Records]]:
    """Records of the epochs of each case: in one process, and on two ranks."""
    cases = {name: ["small-simclr", *TINY, *words] for name, words in CASES.items()}
    command = [sys.executable, environment["RUN"], json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_decorrelation_objective_learns_at_every_layer_and_on_two_ranks(runs: dict) -> None:
    alone, together = runs["barlow"]
    assert alone[1]["loss"] < alone[0]["loss"]
    assert {"loss/last", "loss/hidden", "alpha"} <= alone[0].keys()
    assert together[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-3)


def test_prototypes_with_sinkhorn_take_crops_neighbours_and_hidden_layers(runs: dict) -> None:
    alone, together = runs["swav"]
    assert {"loss/hidden", "positives/gate_open"} <= alone[1].keys()
    assert together[0]["loss"] == pytest.approx(alone[0]["loss"], rel=1e-3)


def test_an_evaluator_measures_every_layer(runs: dict) -> None:
    alone, together = runs["barlow"]
    lengths = [alone[1][f"length/layer_{layer:02d}"] for layer in (1, 2, 3)]
    assert all(length > 0 for length in lengths)
    assert together[0]["length/last"] == pytest.approx(alone[0]["length/last"], rel=1e-3)


def test_masked_tokens_join_dino_in_one_run(runs: dict) -> None:
    alone, together = runs["dino and ibot"]
    for record in alone:
        assert record["loss"] == pytest.approx(record["loss/dino"] + 0.5 * record["loss/ibot-like"], rel=1e-5)
    assert together[0]["loss/ibot-like"] == pytest.approx(alone[0]["loss/ibot-like"], rel=1e-3)


def test_the_command_line_knows_them(environment: dict[str, str]) -> None:
    def strata(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "orchestrator", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    shown = strata("show", "small-simclr", "data.train=stripes:64", *framework("barlow-like"), "--explain")
    assert shown.returncode == 0, shown.stderr
    assert "weight of the redundancy term" in shown.stdout
    wrong = strata("show", "small-simclr", *framework("barlow-lik"))
    assert wrong.returncode == 2
    assert "barlow-like" in wrong.stderr
