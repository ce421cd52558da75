"""A run's folder: what it is resumed from, and with which changes."""

from pathlib import Path

import pytest

from orchestrator.runs.folder import absolute_paths, new_run, resumed_run
from ssl_core import recipes
from ssl_core.errors import InputError


@pytest.mark.parametrize(
    "word",
    [
        "data.cache_mb=1",
        "data.labels=none",
        "data.label_column=kind",
        "data.image_column=png",
        "data.limit=40",
        "seed=3",
        "optim.epochs=9",  # rates follow the whole length of a run
        "optim.batch_size=16",  # a step of an epoch would be another one
        "optim.name=sgd",
        "backbone.image_size=40",
        "backbone.kwargs.depth=3",
    ],
)
def test_what_a_run_learns_from_stays_and_a_refusal_leaves_its_folder_as_it_was(word: str, tmp_path: Path) -> None:
    run = new_run(recipes.load("small-mocov3", ["data.train=bundled:digits"]), tmp_path / "run")
    run.write_config()
    before = run.config_file.read_bytes()
    with pytest.raises(InputError, match=rf"another run.*\n{word.partition('=')[0]}: .* → {word.partition('=')[2]}"):
        resumed_run(run.output, [word])
    assert run.config_file.read_bytes() == before
    assert list(run.output.iterdir()) == [run.config_file]


def test_a_resumed_run_may_change_where_it_runs_but_not_what_it_learns(tmp_path: Path) -> None:
    run = new_run(recipes.load("small-mocov3", ["data.train=bundled:digits"]), tmp_path / "run")
    run.write_config()
    allowed = ["scaling.workers=2", "data.workers=1", "checkpoint.keep=5", "evaluation=[{kind: geometry}]"]
    assert resumed_run(run.output, allowed).config.scaling.workers == 2
    with pytest.raises(InputError, match=r"--resume: .*another run") as error:
        resumed_run(run.output, ["optim.lr=0.5", "optim.epochs=9", "framework.name=dino", "scaling.workers=2"])
    told = str(error.value)
    assert "optim.lr: 0.008 → 0.5" in told
    assert "optim.epochs: 6 → 9" in told
    assert "framework.name: mocov3 → dino" in told
    assert "scaling.workers:" not in told
    assert f"strata pretrain {run.config_file} optim.lr=0.5 optim.epochs=9 framework.name=dino" in told


def test_a_file_of_labels_stays_beside_its_images_or_gets_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path)
    own = "evaluation=[{kind: knn, name: own, data: {train: set, labels: labels.csv}}]"

    def labels() -> tuple[str, str]:
        config = absolute_paths(recipes.load("small-mocov3", ["data.train=set", "data.labels=labels.csv", own]))
        assert config.data.train == config.evaluation[0].data.train == str(tmp_path / "set")
        return config.data.labels, config.evaluation[0].data.labels

    assert labels() == (str(tmp_path / "labels.csv"),) * 2
    (tmp_path / "set" / "labels.csv").touch()
    assert labels() == ("labels.csv",) * 2
    assert absolute_paths(recipes.load("small-mocov3", ["data.train=set"])).data.labels == "auto"
