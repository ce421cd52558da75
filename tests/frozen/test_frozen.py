"""A change of the code leaves seeded losses and weights as they were, to the bit (`record` says how to change one)."""

import json

import pytest

from tests.frozen.record import FILE, ON_TWO_RANKS, cases, frozen_run, machine
from tests.gloo import Ranks

FROZEN = json.loads(FILE.read_text())
ROUNDING = 1e-6  # of a loss, where torch, timm or the CPU is another one
MAGNIFIED = 1e3  # times that after steps of an optimizer, and in bf16


def assert_as_frozen(name: str, found: dict, frozen: dict) -> None:
    if FROZEN[name]["machine"] == machine():
        assert found == frozen
        return
    coarse = MAGNIFIED if "bf16" in name else 1.0
    assert found["losses"][0] == pytest.approx(frozen["losses"][0], rel=ROUNDING * coarse)
    assert found["losses"] == pytest.approx(frozen["losses"], rel=ROUNDING * coarse * MAGNIFIED)


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
