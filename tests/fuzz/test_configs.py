"""A short form of the fuzzer of configurations; `python -m tests.fuzz.configs` is the long one."""

from tests.fuzz.configs import KINDS, fuzz


def test_a_damaged_configuration_is_accepted_or_refused_and_nothing_else() -> None:
    found = fuzz(seed=0, kinds=list(KINDS), enough=lambda number: number >= 300)
    assert {outcome for _, outcome in found} == {"accepted", "refused"}
