"""The revisited protocols against a loop written from the published definition, boxes, broken images, bad files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_core.data.loading import EvalImages
from ssl_core.data.sources import open_images
from ssl_core.data.sources.ground_truth import Truth
from ssl_core.data.views import normalise
from ssl_core.errors import InputError
from ssl_core.evaluation.base import Contexts, check_evaluator
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.revisited import Cropped, Revisited, average_precision, places_of, precision_at, protocol
from ssl_core.networks.layers import Want
from ssl_core.schema.run import RunConfig
from ssl_core.training.loop import Pretraining
from tests.conftest import make_folder, make_image, tiny_config


def loop(ranking: list[int], right: set[int], junk: set[int], k: int = 10) -> tuple[float, float]:
    """Average precision and precision at k, naively: step along the ranking, and pass over what does not count."""
    area, found, seen, hits, before, last = 0.0, 0, 0, [], 1.0, 0
    for image in ranking:
        if image in junk:
            continue
        seen += 1
        hits.append(image in right)
        if image in right:
            found += 1
            last = seen
            area += (before + found / seen) / 2 / len(right)
        before = found / seen
    k = min(k, last)
    return area, sum(hits[:k]) / k


@pytest.mark.parametrize("name", ["easy", "medium", "hard"])
def test_places_precision_and_area_equal_a_loop(name: str) -> None:
    draws = np.random.default_rng(0)
    for _ in range(20):
        images = draws.permutation(60)
        truth = Truth(0, images[:7], images[7:12], images[12:20])
        sets = {"easy": set(truth.easy.tolist()), "hard": set(truth.hard.tolist()), "junk": set(truth.junk.tolist())}
        right = {"easy": sets["easy"], "medium": sets["easy"] | sets["hard"], "hard": sets["hard"]}[name]
        junk = {"easy": sets["junk"] | sets["hard"], "medium": sets["junk"], "hard": sets["junk"] | sets["easy"]}[name]
        ranking = draws.permutation(60)
        places = places_of(ranking, *protocol(truth, name))
        area, precision = loop(ranking.tolist(), right, junk)
        assert average_precision(places, len(right)) == pytest.approx(area)
        assert precision_at(places, 10) == pytest.approx(precision)


def test_a_perfect_ranking_and_one_without_any() -> None:
    assert average_precision(np.arange(4), 4) == 1.0
    assert average_precision(np.array([1]), 1) == pytest.approx((0 + 1 / 2) / 2), "by trapezoids, not 1/2"
    assert average_precision(np.empty(0, int), 3) == precision_at(np.empty(0, int), 10) == 0.0


@pytest.fixture
def landmarks(tmp_path: Path) -> Path:
    make_folder(tmp_path / "database", [f"{n:02d}.png" for n in range(14)])
    make_folder(tmp_path / "queries", ["q0.png", "q1.png", "q2.png"])
    imlist, qimlist = [f"{n:02d}" for n in range(14)], ["q0", "q1", "q2"]
    gnd = [
        {"easy": [0, 4], "hard": [5], "junk": [1, 2], "bbx": [2, 3, 15.5, 18]},
        {"easy": [1], "hard": [], "junk": []},
        {"easy": [], "hard": [2, 3, 9], "junk": [6]},
    ]
    (tmp_path / "gnd.json").write_text(json.dumps({"imlist": imlist, "qimlist": qimlist, "gnd": gnd}))
    return tmp_path


def config_of(folder: Path) -> RunConfig:
    data = {"train": str(folder / "database"), "val": str(folder / "queries"), "truth": str(folder / "gnd.json")}
    return tiny_config("simclr", evaluation=[{"kind": "revisited", "name": "castles", "data": data}])


def evaluator_of(folder: Path) -> Revisited:
    run = Pretraining(tiny_config("simclr"), open_images(tiny_config().data), loaders=0)
    run.method.eval()
    config = config_of(folder)
    context = Context(run._features, run.method.encoder, run.images, config, run.device, 0)
    check_evaluator(config.evaluation[0], config, run.images)
    return Revisited(config.evaluation[0], Contexts(context).of(config.evaluation[0]))


def test_layers_are_measured_as_a_naive_search_does(landmarks: Path) -> None:
    one = evaluator_of(landmarks)
    images = one.context.images
    queries = Cropped(images.val, {0: (2, 3, 16, 18)})

    def features(source) -> torch.Tensor:
        views = torch.stack([EvalImages(source, 16, 3)[index].views["global"][0] for index in range(len(source))])
        return torch.nn.functional.normalize(one.context.look(normalise(views), Want(pooled=(2,))).pooled[2], dim=1)

    ranked = (features(queries) @ features(images.train).T).argsort(dim=1, descending=True).tolist()
    medium = [loop(ranked[0], {0, 4, 5}, {1, 2}), loop(ranked[1], {1}, set()), loop(ranked[2], {2, 3, 9}, {6})]
    hard = [loop(ranked[0], {5}, {0, 1, 2, 4}), loop(ranked[2], {2, 3, 9}, {6})]
    easy = [loop(ranked[0], {0, 4}, {1, 2, 5}), loop(ranked[1], {1}, set())]
    found = one.measure(1)
    for name, values in (("medium", medium), ("hard", hard), ("easy", easy)):
        assert found[f"revisited_{name}"] == pytest.approx(np.mean([area for area, _ in values])), name
        assert found[f"revisited_{name}_p10"] == pytest.approx(np.mean([precision for _, precision in values])), name
    assert one.outcomes[1].tolist() == pytest.approx([area for area, _ in medium])


def test_a_box_is_cut_out_of_a_query(landmarks: Path) -> None:
    whole = open_images(config_of(landmarks).data.model_copy(update={"train": str(landmarks / "queries")})).train
    cut = Cropped(whole, {0: (2.0, 3.0, 15.5, 18.0), 1: (4.0, 4.0, 4.2, 9.0)})
    assert cut.read(0).tobytes() == make_image(0).crop((2, 3, 16, 18)).tobytes()
    assert cut.read(1).size == (1, 5), "a box has at least a pixel"
    assert cut.read(2).size == (20, 20)


def test_a_broken_image_is_not_found_and_a_broken_query_not_asked(landmarks: Path) -> None:
    before = evaluator_of(landmarks).measure(1)
    for broken in ("database/01.png", "queries/q2.png"):
        (landmarks / broken).write_bytes(b"no image")
    one = evaluator_of(landmarks)
    after = one.measure(1)
    assert [truth.query for truth in one.truths] == [0, 1]
    assert one.outcomes[1][1] == 0.0, "the one image that is right for q1"
    assert after["revisited_hard"] != before["revisited_hard"]
    assert one.context.broken == {("evaluation.0.data.train", 1), ("evaluation.0.data.val", 2)}


def test_where_no_image_is_hard_that_protocol_is_left_out(landmarks: Path) -> None:
    (landmarks / "gnd.json").write_text(json.dumps({"q0.png": {"positives": ["03.png"], "junk": []}}))
    assert evaluator_of(landmarks).measure(0).keys() == {
        f"revisited_{name}{end}" for name in ("easy", "medium") for end in ("", "_p10")
    }


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{}", r"^evaluation\.0\.data\.truth: .*gnd\.json: expected"),
        ('{"q0.png": {"positives": ["nowhere.png"]}}', r"^evaluation\.0\.data\.truth: .*nowhere\.png"),
        ("\x80", r"^evaluation\.0\.data\.truth: .*not a JSON file"),
    ],
)
def test_a_file_that_does_not_fit_is_named(landmarks: Path, content: str, text: str) -> None:
    (landmarks / "gnd.json").write_text(content)
    config = config_of(landmarks)
    with pytest.raises(InputError, match=text):
        check_evaluator(config.evaluation[0], config, open_images(config.data))


def test_its_three_places_are_moved_together(landmarks: Path) -> None:
    data = config_of(landmarks).evaluation[0].data
    assert data.paths == [str(landmarks / name) for name in ("database", "queries", "gnd.json")]
    assert data.moved(lambda path: f"/there{path}").truth == f"/there{landmarks}/gnd.json"
