"""The short form: damaged files are read, or broken; what is neither is seen."""

from pathlib import Path

import pytest

from tests.fuzz import images as fuzzing
from tests.fuzz.images import faults, fuzz, table


def test_damaged_files_are_read_or_broken() -> None:
    found = fuzz(seed=1, rounds=2)
    assert faults(found) == {}
    for kind in ("PNG", "JPEG", "TIFF", "Parquet"):
        assert found[kind]["broken"] > 0
    assert sum(counter["read"] for counter in found.values()) > 20
    assert all(found[kind]["read"] == 0 for kind in ("EPS", "DDS", "TGA"))


def test_what_is_neither_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path, data: bytes) -> None:
        raise RuntimeError("a decoder's own")

    monkeypatch.setattr(fuzzing, "read_as_image", fails)
    found = fuzz(seed=0, rounds=1)
    assert set(faults(found)["PNG"]) == {"RuntimeError: a decoder's own"}
    assert "Parquet" not in faults(found)
    assert "| PNG | 6 | 0 | 0 | 6 |" in table(found)
