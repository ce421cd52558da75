"""Corruptions against their equations, and accuracies against features that are extracted one by one."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from ssl_core.data.sources import open_images
from ssl_core.data.views import CentreView, normalise, to_tensor
from ssl_core.errors import InputError
from ssl_core.evaluation.knn import knn_predict
from ssl_core.evaluation.linear import linear_predict
from ssl_core.evaluation.robust import STRENGTHS, WAYS, Robust, corrupt
from ssl_core.networks.layers import Want
from tests.conftest import make_image, tiny_config
from tests.gloo import Ranks
from tests.ssl_core.evaluation.probing import evaluator_of, figures, with_others_labels

SMALL = {"kind": "robust", "max_train": 100, "max_val": 30}


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_corruptions_are_what_they_say(mode: str):
    image = make_image(1, 112, mode)
    clean = pixels(image)
    contrast = pixels(corrupt(image, "contrast", 0.2, 0))
    mean = clean.reshape(-1, clean.shape[2] if mode == "RGB" else 1).mean(0).squeeze()
    np.testing.assert_allclose(contrast, mean + 0.2 * (clean - mean), atol=0.51)
    grey = Image.new(mode, (112, 112), "#808080")
    noise = pixels(corrupt(grey, "noise", 0.08, 3)) - 128
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.03)
    assert abs(noise.mean()) < 1
    assert np.array_equal(noise, pixels(corrupt(grey, "noise", 0.08, 3)) - 128)
    assert not np.array_equal(noise, pixels(corrupt(grey, "noise", 0.08, 4)) - 128)
    assert np.array_equal(pixels(corrupt(image, "blur", 3.0, 0)), pixels(image.filter(ImageFilter.GaussianBlur(1.5))))
    assert corrupt(image, "jpeg", 7, 0).mode == mode


@pytest.mark.parametrize("kind", STRENGTHS)
def test_strengths_rise(kind: str):
    image = make_image(2, 112)
    errors = [np.abs(pixels(corrupt(image, kind, x, 0)) - pixels(image)).mean() for x in STRENGTHS[kind]]
    assert 0 < errors[0] < errors[1] < errors[2]


def test_accuracies_are_of_corrupted_images_by_clean_ones():
    evaluator = evaluator_of(SMALL)
    assert isinstance(evaluator, Robust)
    found, context = evaluator.measure(2), evaluator.context
    rows, val = context.chosen("val", 30, labelled=True), context.images.val
    assert val is not None
    bank_rows, bank = context.features("train", 100)
    bank_labels = torch.from_numpy(context.images.train.labels[bank_rows])
    shares: dict[str, list[float]] = {}
    for kind, strength in WAYS:
        if kind == "noise":  # its draws are held above
            continue
        crops = [corrupt(CentreView(16)(val.read(row).convert("RGB")), kind, strength, 0) for row in rows]
        with torch.no_grad():
            x = context.look(normalise(torch.stack([to_tensor(crop) for crop in crops])), Want((3,))).pooled[3]
        for name, predict in (("knn", knn_predict), ("linear", linear_predict)):
            right = predict(x, bank[2], bank_labels, 10).numpy() == val.labels[rows]
            shares.setdefault(f"robust_{name}_{kind}", []).append(right.mean())
    for name, values in shares.items():
        assert found[name] == pytest.approx(np.mean(values), abs=0.012), name
    kinds = [found[f"robust_knn_{kind}"] for kind in STRENGTHS]
    assert found["robust_knn"] == pytest.approx(np.mean(kinds)) == pytest.approx(evaluator.outcomes[2].mean())
    assert len(set(kinds)) > 1


def test_labels_that_are_others_give_chance():
    found = evaluator_of(SMALL | {"max_val": 200}, images=with_others_labels()).measure(2)
    assert abs(found["robust_linear"] - 0.1) < 0.07


def test_two_ranks_measure_what_one_does(two_ranks: Ranks):
    section = {**SMALL, "layers": "all", "max_train": 60, "max_val": 11}
    alone = figures(section)
    first, second = two_ranks(figures, section, 2)
    assert first | second == {layer: pytest.approx(values, abs=0.1) for layer, values in alone.items()}


def test_one_class_is_refused():
    images = open_images(tiny_config(data={"limit": None}).data)
    images.train.labels = np.zeros_like(images.train.labels)
    with pytest.raises(InputError, match=r"data\.train: its labelled images are of 1 class; expected two or more"):
        Robust.check(tiny_config(evaluation=[SMALL]).evaluation[0], images)
