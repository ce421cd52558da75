"""Whole runs on a real Ray instance and a real MLflow store."""

import json
from pathlib import Path

import pytest
import timm
import torch
from mlflow import MlflowClient
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

from orchestrator.errors import WorkFailed
from orchestrator.runs.folder import new_run
from orchestrator.runs.record import pretrain
from ssl_core import recipes
from ssl_core.errors import InputError
from tests.orchestrator.conftest import TINY

pytestmark = pytest.mark.usefixtures("ray_session")


def _run(output: Path, recipe: str, *overrides: str) -> tuple[dict, str]:
    """A run to its end: its summary, and what it printed."""
    console = Console(record=True, width=120, force_terminal=False)
    run = new_run(recipes.load(recipe, [*TINY, *overrides]), output)
    return pretrain(run, console, started=0.0), console.export_text()


def _records(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(folders: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, dict, str]:
    output = tmp_path_factory.mktemp("finished") / "run"
    data = [f"data.train={folders / 'train'}", f"data.val={folders / 'val'}"]
    return output, *_run(output, "small-sd-mocov3", *data, "tracking.tags={team: red}")


def test_a_run_leaves_its_files(finished) -> None:
    output, summary, _ = finished
    left = {path.name for path in output.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "summary.json", "model.safetensors", "checkpoints", "plots"} <= left
    assert {path.name for path in (output / "plots").iterdir()} >= {"loss.png", "knn_by_layer.png", "before_after.png"}
    assert json.loads((output / "summary.json").read_text()) == summary
    assert summary["status"] == "FINISHED"


def test_every_epoch_has_its_figures(finished) -> None:
    output, _, _ = finished
    records = _records(output)
    assert [record["epoch"] for record in records] == [0, 1, 2]
    for record in records[1:]:
        assert {"loss", "loss/last", "loss/hidden", "loss/predictor", "alpha", "lr", "momentum"} <= set(record)
    for record in (records[0], records[-1]):
        for name in ("knn", "rankme", "std", "alignment", "uniformity"):
            assert {f"{name}/last", f"{name}/best", f"{name}/layer_01", f"{name}/layer_02"} <= set(record)


def test_the_terminal_shows_every_epoch_and_no_noise(finished) -> None:
    _, _, text = finished
    for epoch in range(3):
        assert f"epoch {epoch}" in text
    for noise in ("WARNING", "INFO", "raylet", "Traceback"):
        assert noise not in text


def test_the_resolved_configuration_runs_again(finished) -> None:
    output, _, _ = finished
    config = recipes.load(output / "config.yaml")
    assert recipes.dump(config) == (output / "config.yaml").read_text()


def test_mlflow_has_params_figures_tags_and_files(finished) -> None:
    output, summary, _ = finished
    client = MlflowClient(summary["mlflow"]["uri"])
    run = client.get_run(summary["mlflow"]["run_id"])
    assert run.info.status == "FINISHED"
    config = recipes.load(output / "config.yaml")
    assert run.data.params == {key: str(value) for key, value in recipes.flatten(config).items()}
    assert run.data.tags["team"] == "red"
    assert run.data.tags["seed"] == "0"
    assert run.data.tags["device"].startswith("cpu")
    assert "git_revision" in run.data.tags
    assert run.data.tags["version.torch"] == torch.__version__.split("+")[0]
    for record in _records(output):
        for key, value in record.items():
            logged = {m.step: m.value for m in client.get_metric_history(run.info.run_id, key)}
            assert logged[int(record["epoch"])] == value
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "model.safetensors", "plots", "summary.json"} <= files


def test_the_weights_load_into_timm(finished) -> None:
    output, _, _ = finished
    with safe_open(output / "model.safetensors", "pt") as file:
        backbone = json.loads(file.metadata()["backbone"])
    model = timm.create_model(
        backbone["name"],
        img_size=backbone["image_size"],
        patch_size=backbone["patch_size"],
        num_classes=0,
        **backbone["kwargs"],
    )
    model.load_state_dict(load_file(output / "model.safetensors"))
    assert torch.isfinite(model(torch.randn(2, 1, 32, 32))).all()


def test_two_workers_train_as_one_does(finished, folders: Path, tmp_path: Path) -> None:
    one = _records(finished[0])
    data = [f"data.train={folders / 'train'}", f"data.val={folders / 'val'}"]
    _run(tmp_path / "two", "small-sd-mocov3", *data, "scaling.workers=2")
    two = _records(tmp_path / "two")
    assert len(two) == len(one)
    assert two[0]["rankme/last"] == pytest.approx(one[0]["rankme/last"], rel=1e-4)
    for key in ("loss", "loss/last", "loss/hidden", "loss/predictor", "grad_norm"):
        assert two[1][key] == pytest.approx(one[1][key], rel=1e-3)


def test_images_without_labels_are_the_normal_case(folders: Path, tmp_path: Path) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((folders / "train").rglob("*.png"))):
        (flat / f"{number}.png").symlink_to(path)
    summary, _ = _run(tmp_path / "run", "small-mocov3", f"data.train={flat}")
    assert "rankme/last" in summary["after"]
    assert "knn/last" not in summary["after"]


def test_a_few_broken_images_are_named_and_counted(folders: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(sorted((folders / "train").rglob("*.png"))):
        (images / f"{number:03d}.png").write_bytes(path.read_bytes()[: 40 if number in (7, 50) else None])
    summary, text = _run(tmp_path / "run", "small-mocov3", f"data.train={images}")
    assert summary["broken_images"] == 2
    assert text.count("007.png") == text.count("050.png") == 1

    with pytest.raises(WorkFailed, match=r"2 of 96 training images cannot be decoded.*max_broken=0.01"):
        _run(tmp_path / "strict", "small-mocov3", f"data.train={images}", "data.max_broken=0.01")
    failed = json.loads((tmp_path / "strict" / "summary.json").read_text())
    assert failed["status"] == "FAILED"
    assert MlflowClient(failed["mlflow"]["uri"]).get_run(failed["mlflow"]["run_id"]).info.status == "FAILED"


def test_a_loss_that_diverges_stops_the_run_and_names_the_step(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkFailed) as caught:
        _run(
            tmp_path / "run", "small-mocov3", f"data.train={folders / 'train'}", "optim.lr=1e30", "optim.clip_grad=null"
        )
    assert "step 2 (epoch 1)" in str(caught.value)
    assert "optim.lr" in str(caught.value)
    assert "no checkpoint yet" in str(caught.value)


def test_workers_that_do_not_fit_are_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scaling\.workers: 2 workers of 64 CPUs"):
        _run(
            tmp_path / "run",
            "small-mocov3",
            f"data.train={folders / 'train'}",
            "scaling.workers=2",
            "scaling.cpus_per_worker=64",
        )
