"""Fine-tuning against steps written out, its rates, few labels, ranks, and an encoder that stays as it is."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_core.data.loading import Key
from ssl_core.data.sources import open_images
from ssl_core.data.views import normalise
from ssl_core.errors import InputError
from ssl_core.evaluation.finetune import Augmented, Classifier, Finetune, groups, rate_at
from ssl_core.evaluation.frozen import Batches
from ssl_core.training.checks import check_images
from tests.conftest import tiny_config
from tests.gloo import Ranks
from tests.ssl_core.evaluation.probing import evaluator_of, figures, with_others_labels

SMALL = {"kind": "finetune", "max_train": 64, "max_val": 40, "epochs": 1}
PLAIN = {**SMALL, "mixup": 0, "cutmix": 0, "smoothing": 0, "drop_path": 0, "randaugment": 0}


def test_it_is_a_loop_of_adamw_with_a_rate_a_layer():
    tuned = evaluator_of({**PLAIN, "rate": 0.002, "warmup": 0.5, "smoothing": 0.2})
    assert isinstance(tuned, Finetune)
    torch.manual_seed(3)
    model = Classifier(tuned.copy(3), 10)
    peer = Classifier(tuned.copy(3), 10)
    peer.load_state_dict(model.state_dict())
    source, rows = tuned.context.images.train, tuned.rows(0)
    tuned._train(model, rows, 7, "")
    peer.train()
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in peer.named_parameters()}
    views = Augmented(source, peer.encoder, 0, 7)
    for step, batch in enumerate(Batches(rows, 16, 1, 0), start=1):
        images = torch.stack([views[Key(*key)].views["global"][0] for key in batch])
        labels = torch.from_numpy(source.labels[[key.image for key in batch]])
        peer.zero_grad()
        log_p = peer(normalise(images)).log_softmax(1)
        (-(0.8 * F.one_hot(labels, 10) + 0.02) * log_p).sum(1).mean().backward()
        progress = (step - 1) / 4
        scale = 2 * progress if progress < 0.5 else (1 + math.cos(math.pi * (2 * progress - 1))) / 2
        for name, p in peer.named_parameters():
            if not p.requires_grad:
                continue
            first, second = moments[name]
            first.mul_(0.9).add_(0.1 * p.grad)
            second.mul_(0.999).add_(0.001 * p.grad**2)
            rate = 0.002 * scale * 0.65 ** _layers_above(name)
            decay = 0.0 if p.ndim == 1 or "pos_embed" in name or "cls_token" in name else 0.05
            with torch.no_grad():
                p.mul_(1 - rate * decay)
                p.sub_(rate * first / (1 - 0.9**step) / ((second / (1 - 0.999**step)).sqrt() + 1e-8))
    for (name, p), q in zip(model.named_parameters(), peer.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5, msg=name)


def _layers_above(name: str) -> int:
    """How many layers a parameter is below the classifier; timm has the last norm with the last block."""
    if "blocks." in name:
        return 3 - int(name.split("blocks.")[1][0])
    if name.startswith("head"):
        return 0
    return 1 if "norm" in name else 4


def test_a_layer_is_cut_and_drops_paths_and_the_encoder_stays_as_it_is():
    tuned = evaluator_of({**SMALL, "layers": [2], "drop_path": 0.3})
    assert isinstance(tuned, Finetune)
    copied, encoder = tuned.copy(2), tuned.context.encoder
    assert copied.depth == 2
    assert [round(block.drop_path1.drop_prob, 3) for block in copied.model.blocks[1:]] == [0.15]
    fresh = evaluator_of({**SMALL, "layers": [2], "max_train": 8}).context.encoder
    assert all(torch.equal(p, q) for p, q in zip(encoder.parameters(), fresh.parameters(), strict=True))
    assert not encoder.training
    assert tuned.measure(1).keys() == {"finetune", "finetune_per_class"}


def test_a_network_without_stochastic_depth_goes_without():
    backbone = {"name": "selecsls42", "image_size": 32, "patch_size": None, "kwargs": {}}
    tuned = evaluator_of({**SMALL, "layers": [1], "max_train": 8, "max_val": 4}, backbone=backbone)
    assert isinstance(tuned, Finetune)
    copied, encoder = tuned.copy(4), tuned.context.encoder
    assert all(torch.equal(p, q) for p, q in zip(copied.parameters(), encoder.parameters(), strict=True))
    assert 0 <= tuned.measure(0)["finetune"] <= 1


def test_it_learns():
    tuned = evaluator_of({**PLAIN, "max_train": 600, "max_val": 150, "epochs": 5, "rate": 0.004})
    found = tuned.measure(2)["finetune"]
    assert found > 0.2
    assert found == tuned.outcomes[2].mean()


def test_labels_that_are_others_give_chance():
    found = evaluator_of(SMALL | {"max_val": 200}, images=with_others_labels()).measure(2)
    assert abs(found["finetune"] - 0.1) < 0.07


def test_few_labels_are_drawn_of_each_class_alike():
    tuned = evaluator_of({**SMALL, "max_train": 400, "label_share": 0.05, "runs": 2, "layers": [1]})
    assert isinstance(tuned, Finetune)
    labels = tuned.context.images.train.labels
    assert labels is not None
    first, second = tuned.rows(0), tuned.rows(1)
    assert sorted(labels[first]) == sorted(labels[second]) == sorted([*range(10)] * 2)
    assert set(first) != set(second)
    found = tuned.measure(0)
    runs = [right.mean() for right in tuned.right[0]]
    assert found["finetune"] == pytest.approx(np.mean(runs))
    assert found["finetune_interval"] == pytest.approx(12.7062 * np.std(runs, ddof=1) / 2**0.5, rel=1e-4)


def test_two_ranks_train_what_one_does(two_ranks: Ranks):
    alone = figures({**PLAIN, "rate": 0.002, "max_val": 100})
    first, second = two_ranks(figures, {**PLAIN, "rate": 0.002, "max_val": 100}, 2)
    assert first | second == {2: pytest.approx(alone[2], abs=0.02)}


def test_rates_rise_and_fall():
    assert [rate_at(x, 0.2) for x in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert rate_at(0, 0) == 1
    tuned = evaluator_of({**SMALL, "max_train": 8})
    rates = {round(group["lr"], 12) for group in groups(Classifier(tuned.context.encoder, 10), tuned.config, 512)}
    assert sorted(rates) == pytest.approx([1e-3 * 0.65**n for n in (4, 3, 2, 1, 0)])


def test_views_are_drawn_by_image_and_epoch_whatever_else_is_drawn():
    source = open_images(tiny_config(data={"limit": None}).data).train
    encoder = evaluator_of({**SMALL, "max_train": 8}).context.encoder
    views = Augmented(source, encoder, 9, 1)

    def view(epoch: int, image: int) -> list:
        return views[Key(epoch, image, image)].views["global"].tolist()

    torch.manual_seed(0)
    first, drawn = view(0, 3), torch.rand(1)
    assert view(0, 3) == first != view(1, 3)
    torch.manual_seed(0)
    assert torch.rand(1) == drawn, "the process's own generator goes on as if nothing had been drawn"


@pytest.mark.parametrize(("own", "text"), [({"label_share": 0.01}, "label_share: 0.01 of 64 labels of 10 classes")])
def test_too_few_labels_are_counted(own: dict, text: str):
    images = open_images(tiny_config(data={"limit": None}).data)
    with pytest.raises(InputError, match=text):
        Finetune.check(tiny_config(evaluation=[{**SMALL, **own}]).evaluation[0], images)


def test_a_run_does_not_measure_it_between_epochs():
    config = tiny_config("simclr", evaluation=[{"kind": "finetune"}])
    with pytest.raises(InputError, match=r"evaluation\.0\.kind: finetune costs too much between epochs"):
        check_images(config, open_images(config.data))
