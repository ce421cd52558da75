"""A few rounds of `python -m tests.chaos.chaos`, whose long form is a command."""

from collections.abc import Iterator

import pytest

from tests.chaos.chaos import Harness, harness

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def harnessed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with harness(tmp_path_factory.mktemp("chaos")) as played_on:
        yield played_on


@pytest.mark.parametrize(
    ("what", "victim"), [("pretrain", "worker"), ("pretrain", "driver"), ("pretrain", "server"), ("sweep", "worker")]
)
def test_a_round(what: str, victim: str, harnessed: Harness) -> None:
    played = harnessed.play(what, seed=0, victim=victim)
    assert played.survived, played
