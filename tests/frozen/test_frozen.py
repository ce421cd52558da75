"""A change of the code leaves seeded losses and weights as they were, to the bit (`record` says how to change one)."""

import json

import pytest

from tests.frozen.record import FILE, ON_TWO_RANKS, cases, frozen_run, machine
from tests.gloo import Ranks

FROZEN = json.loads(FILE.read_text())
# How far losses may lie apart where torch, timm or the CPU is another one: at the first step, and after an optimizer's,
# which magnifies rounding.
FP32, BF16 = (1e-6, 1e-3), (1e-2, 5e-2)


def assert_as_frozen(name: str, found: dict, frozen: dict) -> None:
    if FROZEN[name]["machine"] == machine():
        assert found == frozen
        return
    first, later = BF16 if "bf16" in name else FP32
    assert found["losses"][0] == pytest.approx(frozen["losses"][0], rel=first, abs=first)
    assert found["losses"] == pytest.approx(frozen["losses"], rel=later, abs=later)


def test_every_small_recipe_is_held() -> None:
    assert set(FROZEN) == set(cases())


@pytest.mark.parametrize("name", FROZEN)
def test_losses_and_weights_are_as_they_were(name: str) -> None:
    assert_as_frozen(name, frozen_run(cases()[name]), FROZEN[name]["one"])


@pytest.mark.parametrize("name", ON_TWO_RANKS)
def test_so_they_are_on_two_ranks(name: str, two_ranks: Ranks) -> None:
    first, second = two_ranks(frozen_run, cases()[name], 2)
    assert first == second
    assert_as_frozen(name, first, FROZEN[name]["two"])
