"""Two real ranks do what one does with the same global batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssl_core import distributed
from ssl_core.data.loading import EpochOrder
from ssl_core.data.sources import open_images
from ssl_core.data.views import normalise
from ssl_core.schema.run import RunConfig
from ssl_core.training.events import Printed
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config
from tests.gloo import Ranks

RESNET = {"name": "resnet18", "image_size": 32, "patch_size": None, "kwargs": {}}
PROGRESS = 0.4
CASES = {
    "simclr": ("simclr", {}),
    "byol": ("byol", {}),
    "mocov3": ("mocov3", {}),
    "mocov3 resnet": ("mocov3", {"backbone": RESNET}),
    "simsiam": ("simsiam", {}),
    "simsiam resnet": ("simsiam", {"backbone": RESNET}),
    "dino": ("dino", {}),
    "dino resnet": ("dino", {"backbone": RESNET, "framework": {"head_norm": True}}),
}
MULTI_CROP = {"views": {"local_crops": {"count": 2, "size": 8}}}
CASES |= {f"{name} multi-crop": (name, MULTI_CROP) for name in ("simclr", "dino")}


def case_config(case: str, workers: int) -> RunConfig:
    framework, sections = CASES[case]
    return tiny_config(framework, distill={}, data={"limit": 16}, scaling={"workers": workers}, **sections)


def first_step(config: RunConfig) -> tuple[Tensor, dict[str, Tensor], list[int], dict[str, Tensor]]:
    """Loss, gradients and image ids of a run's first step on this rank, and the framework's state after it."""
    run = Pretraining(config, open_images(config.data), loaders=0)
    batch = next(iter(run.loader))
    batch = replace(batch, views={kind: normalise(x) for kind, x in batch.views.items()})
    output = run.train_step.trained(batch, PROGRESS)
    output.loss.backward()
    gradients = {name: p.grad for name, p in run.method.named_parameters() if p.grad is not None}
    state = {name: x for name, x in run.method.named_buffers() if name.endswith("center")}
    return distributed.mean_over_ranks(output.loss), gradients, batch.ids.tolist(), state


@pytest.mark.parametrize("case", CASES)
def test_two_workers_give_the_gradient_of_one_with_the_same_global_batch(two_ranks: Ranks, case: str):
    parts = two_ranks(first_step, case_config(case, workers=2))
    loss, gradients, ids, state = first_step(case_config(case, workers=1))
    assert state.keys() == ({"objectives.dino.center"} if "dino" in case else set())
    assert [index for part in parts for index in part[2]] == ids
    for shared_loss, shared, _, shared_state in parts:
        torch.testing.assert_close(shared_loss, loss.detach(), rtol=1e-5, atol=1e-5)
        for name, value in state.items():
            assert value.abs().max() > 0
            torch.testing.assert_close(shared_state[name], value, rtol=1e-5, atol=1e-5)
        assert shared.keys() == gradients.keys()
        for name, gradient in gradients.items():
            # Of the largest entry. Rounding of 20 normalised layers adds up: in a ResNet, torch's batch norm
            # and ours differ as much within one worker.
            close = 1e-4 if "resnet" in case else 1e-5
            atol = close * max(1.0, gradient.abs().max().item())
            torch.testing.assert_close(shared[name], gradient, rtol=0, atol=atol, msg=name)


def train_two_epochs(config: RunConfig) -> dict[str, Tensor]:
    run = Pretraining(config, open_images(config.data), loaders=0)
    run.run(Printed())
    return run.method.state_dict()


@pytest.mark.parametrize("case", CASES)
def test_both_workers_end_with_the_same_weights(two_ranks: Ranks, case: str):
    first, second = two_ranks(train_two_epochs, case_config(case, workers=2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def epoch_batches(config: RunConfig, epoch: int) -> list[list[int]]:
    order = EpochOrder(open_images(config.data).train, config.micro_batch, config.seed, budget_bytes=1 << 30)
    order.epoch = epoch
    assert len(list(order)) == len(order)
    return [[index for _, index, *_ in batch] for batch in order]


def test_batches_of_two_workers_are_disjoint_and_together_one_workers(two_ranks: Ranks):
    forty = {"limit": 40}
    parts = two_ranks(epoch_batches, tiny_config(data=forty, scaling={"workers": 2}), 3)
    alone = epoch_batches(tiny_config(data=forty), 3)
    assert len(alone) == 2, "40 images are two batches of 16; the rest is dropped"
    for step, batch in enumerate(alone):
        shares = [part[step] for part in parts]
        assert not set(shares[0]) & set(shares[1])
        assert shares[0] + shares[1] == batch
    seen = [index for batch in alone for index in batch]
    assert len(set(seen)) == len(seen)


def gather_everything() -> dict:
    rank = distributed.rank()
    x = torch.tensor([[1.0 + rank, 2.0]], requires_grad=True)
    gathered = distributed.all_gather_with_grad(x)
    (gathered * torch.tensor([[1.0], [10.0]]) * (rank + 1)).sum().backward()
    return {
        "rows": distributed.all_gather(x.detach())[:, 0].tolist(),
        "grad": x.grad.tolist(),
        "mean": distributed.mean_over_ranks(torch.tensor(float(rank))).item(),
        "objects": distributed.gather_objects({"rank": rank}),
    }


def test_collectives_keep_rank_order_and_gather_sums_what_all_ranks_say(two_ranks: Ranks):
    for rank, got in enumerate(two_ranks(gather_everything)):
        assert got["rows"] == [1.0, 2.0]
        factor = (1.0, 10.0)[rank] * (1 + 2)  # both ranks' losses, weighted 1 and 2
        assert got["grad"] == [[factor, factor]]
        assert got["mean"] == 0.5
        assert got["objects"] == [{"rank": 0}, {"rank": 1}]


def add_to_gathered() -> float:
    x, y = torch.ones(1, 1, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    doubled = 2 * y
    (distributed.all_gather_with_grad(x) + doubled).square().sum().backward()
    return y.grad[0].item()


def test_the_gradient_of_what_is_added_to_gathered_rows_stays_its_own(two_ranks: Ranks):
    alone = 2 * 2 * (1 + 2)  # d(x + 2y)² / dy at 1, of the own rank's loss only
    assert two_ranks(add_to_gathered) == [alone, alone]


def test_without_a_process_group_collectives_change_nothing():
    x = torch.randn(3, 2)
    assert distributed.world_size() == 1
    assert distributed.rank() == 0
    assert torch.equal(distributed.all_gather(x), x)
    assert distributed.all_gather_with_grad(x) is x
    assert torch.equal(distributed.mean_over_ranks(x), x)
    assert distributed.gather_objects("a") == ["a"]
