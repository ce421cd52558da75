"""Evaluators with a name and with images of their own, beside the run's."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from ssl_core import recipes
from ssl_core.data.loading import EvalImages
from ssl_core.data.sources import open_images
from ssl_core.data.views import normalise
from ssl_core.errors import InputError
from ssl_core.evaluation.base import source_of
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.knn import knn_predict
from ssl_core.networks.layers import Want
from ssl_core.schema.run import RunConfig
from ssl_core.training.checks import check_images
from ssl_core.training.events import Event, Listener, Warned
from ssl_core.training.loop import Pretraining
from tests.conftest import make_folder, tiny_config
from tests.gloo import Ranks


@pytest.fixture
def food(tmp_path: Path) -> dict[str, str]:
    """Images in two classes: 22 to know, 9 to ask."""
    for split, count in (("train", 22), ("val", 9)):
        make_folder(tmp_path / split, [f"{'rice' if n % 2 else 'beans'}/{n:02d}.png" for n in range(count)])
    return {split: str(tmp_path / split) for split in ("train", "val")}


def config_of(food: dict[str, str], workers: int = 1) -> RunConfig:
    own = [
        {"kind": "knn", "k": 3, "name": "food", "data": food},
        {"kind": "geometry", "name": "food", "data": food},
        {"kind": "knn", "k": 1, "name": "near", "max_val": 40, "max_train": 50},
    ]
    evaluation = [{"kind": "knn", "k": 5, "max_val": 40}, *own]
    return tiny_config("simclr", data={"limit": 61}, evaluation=evaluation, scaling={"workers": workers})


def prepare(config: RunConfig) -> Pretraining:
    return Pretraining(config, open_images(config.data), loaders=0)


def figures(config: RunConfig) -> dict[str, float]:
    return prepare(config).evaluate(0)


def test_own_images_are_measured_as_a_naive_evaluation_does(food: dict[str, str]) -> None:
    run = prepare(config_of(food))
    run.method.eval()

    def features(split: str) -> tuple[list[Tensor], Tensor]:
        source = source_of(f"evaluation.1.data.{split}", run.config, run.images)
        views = torch.stack([EvalImages(source, 16, 3)[index].views["global"][0] for index in range(len(source))])
        with torch.no_grad():
            pooled = run.method.features(normalise(views), Want(pooled=(1, 2, 3))).pooled
        return list(pooled.values()), torch.from_numpy(source.labels)

    (bank, bank_labels), (queries, labels) = features("train"), features("val")
    assert (len(bank_labels), len(labels)) == (22, 9)
    measured = run.evaluate(0)
    for layer in range(3):
        found = knn_predict(queries[layer], bank[layer], bank_labels, classes=2, k=3)
        expected = (found == labels).float().mean().item()
        assert measured[f"food.knn/layer_{layer + 1:02d}"] == pytest.approx(expected)
    assert measured["food.knn/last"] != measured["knn/last"]


def test_two_of_a_kind_stand_side_by_side(food: dict[str, str]) -> None:
    measured = figures(config_of(food))
    assert {"knn/last", "near.knn/last", "food.knn/best", "food.rankme/layer_01"} <= measured.keys()
    same = {"kind": "knn", "k": 1, "max_val": 40, "max_train": 50}
    alone = figures(tiny_config("simclr", data={"limit": 61}, evaluation=[same]))
    assert measured["near.knn/last"] == alone["knn/last"], "a name changes nothing but the name"


def test_two_ranks_measure_own_images_as_one_does(food: dict[str, str], two_ranks: Ranks) -> None:
    alone = figures(config_of(food))
    first, second = two_ranks(figures, config_of(food, workers=2))
    assert first == second
    assert first.keys() == alone.keys()
    assert first == pytest.approx(alone, rel=1e-3, abs=1e-5)


def rows_kept(config: RunConfig) -> dict[int, tuple[int, ...]]:
    """The features of the training images that this rank keeps, by layer."""
    run = prepare(config)
    context = Context(run._features, run.method.encoder, run.images, config, run.device, 0)
    return {layer: tuple(x.shape) for layer, x in context.features("train", 61)[1].items()}


def test_a_rank_keeps_the_features_of_its_own_layers_alone(food: dict[str, str], two_ranks: Ranks) -> None:
    first, second = two_ranks(rows_kept, config_of(food, workers=2))
    assert first == {0: (61, 32), 2: (61, 32)}
    assert second == {1: (61, 32)}


class Remembers(Listener):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def on(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.message)


def test_a_broken_image_of_an_evaluators_is_named_and_is_no_training_image(food: dict[str, str]) -> None:
    broken = Path(food["train"]) / "rice" / "01.png"
    broken.write_bytes(b"no image")
    listener = Remembers()
    config = config_of(food)
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_broken": 0.0})})
    history = prepare(config).run(listener)
    assert [str(broken) in warning for warning in listener.warnings] == [True]
    assert history[-1]["broken_images"] == 1


def test_what_is_wrong_with_them_names_the_key(food: dict[str, str], tmp_path: Path) -> None:
    images = open_images(config_of(food).data)
    with pytest.raises(InputError, match=r"^evaluation\.1\.data\.val: .*nowhere does not exist"):
        check_images(config_of({**food, "val": "nowhere"}), images)
    with pytest.raises(InputError, match=r"^evaluation\.1\.data: knn needs labels"):
        check_images(config_of({**food, "labels": "none"}), images)
    (tmp_path / "none.parquet").write_bytes(b"no Parquet")
    with pytest.raises(InputError, match=r"^evaluation\.1\.data: .*none\.parquet"):
        check_images(config_of({**food, "val": str(tmp_path / "none.parquet")}), images)


def test_their_labels_are_their_own(food: dict[str, str]) -> None:
    config = config_of(food)
    config = config.model_copy(update={"data": config.data.model_copy(update={"labels": "none"})})
    measured = figures(config)
    assert "food.knn/last" in measured
    assert "knn/last" not in measured


def test_own_images_have_labels_of_their_own_file_and_a_split(food: dict[str, str]) -> None:
    train = Path(food["train"])
    rows = [f"{file.stem},{0.9 if file.parent.name == 'rice' else 0.1}\n" for file in train.rglob("*.png")]
    (train / "labels.csv").write_text("id,p\n" + "".join(rows))
    data = {"train": str(train), "labels": "labels.csv", "label_above": 0.5}
    own = {"kind": "knn", "k": 1, "name": "food", "data": data | {"split": {"share": 0.25}}}
    plain = {"kind": "knn", "k": 1, "name": "plain", "data": food}  # of its own classes, and with a val of its own
    evaluation = [{"kind": "knn"}, own, plain]
    config = tiny_config("simclr", data=data | {"split": {"share": 0.2}}, evaluation=evaluation)
    assert figures(config).keys() >= {"knn/last", "food.knn/last", "plain.knn/last"}
    images = open_images(config.data)
    bank, queries = (source_of(f"evaluation.1.data.{split}", config, images) for split in ("train", "val"))
    assert (len(bank), len(queries)) == (16, 6)
    assert list(queries.classes) == ["at most 0.5", "above 0.5"]
    assert [bool(label) for label in queries.labels] == ["rice" in queries.name(index) for index in range(6)]


def test_names_tell_evaluators_apart() -> None:
    with pytest.raises(ValidationError, match="name: missing; it tells what is measured of other images"):
        tiny_config(evaluation=[{"kind": "knn", "data": {"train": "bundled:digits"}}])
    tiny_config(evaluation=[{"kind": "knn", "name": "a"}, {"kind": "geometry", "name": "a"}, {"kind": "knn"}])


def test_recipes_and_command_line_reach_into_them() -> None:
    words = ["data.train=bundled:digits", "evaluation.0.name=own", "evaluation.0.data={train: x, labels: none}"]
    config = recipes.load("demo", words)
    assert config.evaluation[0].data.labels == "none"
    assert config.paths == ["x"]
    wrong = r"evaluation\.0\.data\.trian: unknown key; did you mean evaluation\.0\.data\.train"
    with pytest.raises(InputError, match=wrong):
        recipes.load("demo", [*words, "evaluation.0.data.trian=y"])
