"""The user's token: where it is looked for, and when it is not trusted."""

from pathlib import Path

import pytest

from orchestrator.cluster.token import has_token, in_environment
from ssl_core.errors import InputError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user without any token would have one."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    return tmp_path / ".ray" / "auth_token"


def test_a_token_is_looked_for_in_the_environment_and_in_the_home(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_token()
    file.write_text("secret")
    file.chmod(0o600)
    assert has_token()
    assert not in_environment()
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert in_environment()


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_token_that_others_can_read_or_change_is_refused(mode: int, file: Path) -> None:
    file.write_text("secret")
    file.chmod(mode)
    with pytest.raises(InputError, match=f"chmod 600 {file}"):
        has_token()
