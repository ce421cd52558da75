"""One table of metrics: it names what runs log, and says by which of them they can be compared."""

import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from ssl_core import methods
from ssl_core.data.sources import open_images
from ssl_core.errors import InputError
from ssl_core.evaluation.metrics import check_compared, find, layers_of, table
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.checks import check_best, check_images, metric_names
from ssl_core.training.loop import Pretraining
from tests.conftest import make_folder, tiny_config

ALL = [{"kind": "knn"}, {"kind": "linear"}, {"kind": "geometry", "max_images": 16}]
ADASIM = {"kind": "adasim", "window": 1, "tau": 10.0, "top_k": 8}
THREE = {"optim": {"epochs": 3}}
CASES = {
    "mocov3, distilled": ("mocov3", {"distill": {}, "evaluation": ALL}),
    "simclr, distilled": ("simclr", {"distill": {}}),
    "distilled, off": ("simclr", {"distill": {"alpha": 0.0}}),
    "distilled, no hidden layer": ("byol", {"distill": {"layers": [3]}}),
    "dino, neighbours": ("dino", {"positives": ADASIM, **THREE}),
    "approximate neighbours": ("simsiam", {"positives": {**ADASIM, "search": "ivf"}, **THREE}),
    "one neighbour": ("simsiam", {"positives": {**ADASIM, "top_k": 1}, **THREE}),
    "nearest": ("simsiam", {"positives": {"kind": "nearest"}, **THREE}),
    "no labels": ("simsiam", {"data": {"labels": "none"}, "positives": ADASIM, "evaluation": ALL, **THREE}),
    "labels": ("byol", {"positives": {"kind": "labels", "label_share": 1.0}}),
    "mae": ("mae", {}),
    "bootleg": ("bootleg", {"framework": {**tiny_config("bootleg").framework.model_dump(), "targets": "all"}}),
    "several": (
        "mocov3",
        {
            "framework": None,
            "objectives": [
                {"name": "simsiam", "hidden_dim": 16, "output_dim": 16, "bottleneck_dim": 8},
                {"name": "mae", "predictor": {"dim": 16, "depth": 1, "heads": 2}},
            ],
        },
    ),
}

DRAWN = {"same_class", "self_similarity", "spread", "nn_top2"}
UNSURE = {
    "dino, neighbours": DRAWN,
    "approximate neighbours": {*DRAWN, "recall"},
    "one neighbour": {"same_class", "self_similarity"},
    "nearest": DRAWN,
    "no labels": {"self_similarity", "spread"},
    "labels": {"same_class"},
}
ABSENT = {"approximate neighbours": {"same_class"}, "one neighbour": {"same_class"}}
"""Of these, what is not logged because no neighbour is drawn."""


@pytest.mark.parametrize("case", CASES)
def test_runs_log_what_the_table_says(case: str) -> None:
    name, sections = CASES[case]
    config = tiny_config(name, **sections)
    images = open_images(config.data)
    with torch.device("meta"):
        expected = metric_names(config, images, methods.build(config))
    history = Pretraining(config, images, loaders=0).run()
    unsure = {f"positives/{name}" for name in UNSURE.get(case, ())}
    absent = {f"positives/{name}" for name in ABSENT.get(case, ())}
    assert {name for name, sure in expected.items() if not sure} == unsure
    assert {metric for record in history for metric in record} == expected.keys() - absent
    assert history[-1].keys() >= expected.keys() - unsure, "what is sure is there at the end"
    assert all(find(metric) is not None for metric in expected)


def test_a_metric_is_found_by_the_name_it_is_logged_under() -> None:
    assert find("knn/last") == find("knn/layer_03") == find("cars.knn/best") == table()["knn"]
    for name in ("loss/target_06", "loss/mae", "loss/mae/last", "loss/bootleg/target_06"):
        assert (find(name).name, find(name).higher) == (name, False)
    assert find("loss/target_06").meaning == table()["loss/target_NN"].meaning
    assert find("loss/") is find("loss/mae/last/3") is find("loss/a b") is None
    assert find("knn") is find("nothing") is find("knn/lst") is None
    assert layers_of({"knn/layer_02": 2.0, "knn/layer_01": 1.0, "knn/last": 2.0}, "knn") == {1: 1.0, 2: 2.0}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("knn/lst", r"checkpoint\.best: knn/lst is not logged by these runs; did you mean knn/last"),
        ("alpha", r"alpha is not logged"),
        ("lr", r"neither a high nor a low lr is better; take another, such as knn/last"),
        ("pets.knn/last", r"not logged by these runs; did you mean knn/last"),
        ("positives/same_class", r"positives/same_class is not logged"),
    ],
)
def test_what_runs_cannot_be_compared_by_is_refused(name: str, text: str) -> None:
    config = tiny_config("byol", evaluation=ALL, checkpoint={"best": name})
    with pytest.raises(InputError, match=text):
        check_best(config, open_images(config.data), methods.build(config))


def test_accuracies_need_labels(image_folder: Path) -> None:
    config = tiny_config("byol", data={"train": str(image_folder), "limit": None, "labels": "none"})
    images, method = open_images(config.data), methods.build(config)
    check_best(config, images, method)  # the default is nothing that was chosen
    with pytest.raises(InputError, match=r"needs labels .* such as loss"):
        check_compared("metric", "linear/last", metric_names(config, images, method), images.labelled)


def test_an_evaluator_that_is_not_listed_is_named() -> None:
    config = tiny_config("byol", evaluation=[{"kind": "knn"}])
    names = metric_names(config, open_images(config.data), methods.build(config))
    with pytest.raises(InputError, match=r"linear/last is not logged .* `evaluation` has no \{kind: linear\}"):
        check_compared("metric", "linear/last", names, labelled=True)


def test_own_labels_are_enough_where_the_runs_images_have_none() -> None:
    own = {"kind": "knn", "name": "pets", "data": {"train": "bundled:digits"}, "max_val": 20}
    config = tiny_config("byol", data={"labels": "none"}, evaluation=[own])
    images, method = open_images(config.data), methods.build(config)
    names = metric_names(config, images, method)
    assert check_compared("metric", "pets.knn/last", names, images.labelled) == table()["knn"]
    with pytest.raises(InputError, match=r"did you mean pets\.knn/last"):
        check_compared("metric", "knn/last", names, images.labelled)


@pytest.mark.parametrize(("metric", "best"), [("loss", 4), ("knn/last", 2), ("uniformity/last", 5), ("absent", -1)])
def test_the_best_checkpoint_is_the_highest_or_the_lowest(tmp_path: Path, metric: str, best: int) -> None:
    config = tiny_config("byol", optim={"epochs": 5}, checkpoint={"best": metric, "every_epochs": 2})
    losses, accuracies, spread = [9.0, 5.0, 1.0, 3.0, 4.0], [0.1, 0.9, 1.0, 0.3, 0.5], [-1.0, math.nan, -9.0, -2.5, -3]
    history = [
        {"epoch": float(epoch), "loss": loss, "knn/last": accuracy, "uniformity/last": uniform}
        for epoch, (loss, accuracy, uniform) in enumerate(zip(losses, accuracies, spread, strict=True), start=1)
    ]
    assert CheckpointStore(tmp_path, config).best_epoch(history) == best, "of epochs 2, 4 and the last"


def test_evaluators_may_have_images_and_a_name_of_their_own(tmp_path: Path) -> None:
    for split, count in (("train", 12), ("val", 6)):
        make_folder(tmp_path / split, [f"{'cat' if n % 2 else 'dog'}/{n}.png" for n in range(count)])
    own = {"train": str(tmp_path / "train"), "val": str(tmp_path / "val")}
    evaluation = [{"kind": "knn"}, {"kind": "knn", "name": "pets", "k": 3, "data": own}]
    config = tiny_config("byol", evaluation=evaluation, optim={"epochs": 1})
    images = open_images(config.data)
    run = Pretraining(config, images, loaders=0)
    record = run.evaluate(0)
    assert len(layers_of(record, "knn")) == len(layers_of(record, "pets.knn")) == 3
    assert record["pets.knn/last"] * 6 == pytest.approx(round(record["pets.knn/last"] * 6)), "of six images"
    assert "pets.knn/best" in metric_names(config, images, run.method)

    missing = [{"kind": "knn"}, {"kind": "linear", "name": "pets", "data": {"train": str(tmp_path / "none")}}]
    with pytest.raises(InputError, match=r"evaluation\.1\.data\.train: .*none does not exist"):
        check_images(tiny_config("byol", evaluation=missing), images)
    unlabelled = [{"kind": "knn", "name": "pets", "data": {"train": own["train"]}}]
    with pytest.raises(InputError, match=r"evaluation\.0\.data: knn needs labels"):
        check_images(tiny_config("byol", evaluation=unlabelled), images)
    with pytest.raises(ValidationError, match="knn is there twice"):
        tiny_config("byol", evaluation=[{"kind": "knn"}, {"kind": "knn"}])
