"""What a run was trained on, as MLflow shows it."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.tracking import data
from orchestrator.tracking.mlflow import NOTE, track_run
from orchestrator.tracking.store import Store
from ssl_core import recipes
from ssl_core.data.sources import open_images
from tests.conftest import make_folder


@pytest.mark.parametrize("words", [[], ["data.split.share=0.5"]], ids=["plain", "split"])
def test_a_run_says_what_it_was_trained_on_from_where_and_what_it_is(
    sqlite: Store, client: MlflowClient, folder: Path, words: list[str]
) -> None:
    config = recipes.load("demo", [f"tracking.uri={sqlite.uri}", *words])
    images = open_images(config.data)
    for _ in range(2):  # said again by a resume
        tracker = track_run(config, folder)
        tracker.log_data(config, images)
    tracker.deliver()
    run = client.get_run(tracker.run_id)
    found = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
    assert set(found) == {"training"} | ({"validation"} if config.data.val or words else set())
    assert found["training"].name == "bundled:digits"
    assert json.loads(found["training"].profile)["num_images"] == len(images.train)
    assert run.data.tags["mlflow.source.name"] == "strata pretrain"
    assert config.backbone.name in run.data.tags[NOTE]
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_an_experiment_of_before_gets_its_kind(sqlite: Store, client: MlflowClient, folder: Path) -> None:
    number = client.create_experiment("before")
    config = recipes.load("demo", [f"tracking.uri={sqlite.uri}", "tracking.experiment=before"])
    track_run(config, folder).deliver()
    assert client.get_experiment(number).tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_digest_is_of_the_images_wherever_they_lie(tmp_path: Path) -> None:
    def described(root: Path) -> dict[str, str]:
        source = open_images(recipes.load("demo", [f"data.train={root}", "data.val=null"]).data).train
        return data.describe(str(root), source, "training")

    names = [f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(4)]
    one = described(make_folder(tmp_path / "one", names))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    two = described(tmp_path / "two")
    assert (one["name"], two["name"]) == ("one", "two")
    assert one["digest"] == two["digest"]
    (tmp_path / "two" / "cat" / "3.png").rename(tmp_path / "two" / "cat" / "9.png")
    assert described(tmp_path / "two")["digest"] != one["digest"]


def test_a_data_sets_path_holds_no_credentials() -> None:
    source = open_images(recipes.load("demo").data).train
    said = data.describe(["s3://key:secret@bucket/images?token=secret", "s3://bucket/more"], source, "training")
    assert "secret" not in str(said)
    assert said["name"] == "images and 1 more"
