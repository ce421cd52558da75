"""A change of the code leaves seeded losses and weights as they were, to the bit (`record` says how to change one)."""

import json

import pytest

from tests.frozen.record import FILE, ON_TWO_RANKS, cases, frozen_run, machine
from tests.gloo import Ranks

FROZEN = json.loads(FILE.read_text())
ROUNDING = 1e-6  # of a loss, where torch, timm or the CPU is another one


def assert_as_frozen(found: dict, frozen: dict, there: dict) -> None:
    if there == machine():
        assert found == frozen
        return
    # The first step sees the weights as they were drawn; the others those of an optimizer that magnifies rounding.
    assert found["losses"][0] == pytest.approx(frozen["losses"][0], rel=ROUNDING)
    assert found["losses"] == pytest.approx(frozen["losses"], rel=1e3 * ROUNDING)


def test_every_small_recipe_is_held() -> None:
    assert set(FROZEN) == set(cases())


@pytest.mark.parametrize("name", FROZEN)
def test_losses_and_weights_are_as_they_were(name: str) -> None:
    assert_as_frozen(frozen_run(cases()[name]), FROZEN[name]["one"], FROZEN[name]["machine"])


@pytest.mark.parametrize("name", ON_TWO_RANKS)
def test_so_they_are_on_two_ranks(name: str, two_ranks: Ranks) -> None:
    first, second = two_ranks(frozen_run, cases()[name], 2)
    assert first == second
    assert_as_frozen(first, FROZEN[name]["two"], FROZEN[name]["machine"])
