"""A Ray of our own: where its files go."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster import connect

LONGEST_SOCKET = 107  # bytes of a Unix socket's name


def test_a_long_folder_for_temporary_files_is_not_used_for_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/scratch")
    assert connect._short_folder() == "/scratch"
    for long in ("/net/cluster/somebody/slurm_jobdir/1355700/tmp", "/scratch/ααααα"):
        monkeypatch.setenv("RAY_TMPDIR", long)
        assert connect._short_folder() == "/tmp"
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setattr("tempfile.tempdir", "/net/cluster/somebody/slurm_jobdir/1355700/tmp")
    assert connect._short_folder() == "/tmp"


def test_in_the_longest_folder_that_is_used_the_sockets_of_ray_have_room(ray_session: None) -> None:
    folder = Path(connect._own_folders[-1])
    sockets = [str(path) for path in folder.rglob("*") if path.is_socket()]
    assert sockets
    beyond = max(len(os.fsencode(socket)) for socket in sockets) - len(os.fsencode(folder.parent))
    assert connect.LONGEST_TEMP + beyond <= LONGEST_SOCKET


def test_folders_of_killed_processes_are_removed_and_those_in_use_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "_short_folder", lambda: str(tmp_path))
    killed, new, used, other = (tmp_path / f"strata-{name}" for name in ("killed", "new", "used", "other"))
    code = "import os, sys; from pathlib import Path; from orchestrator.cluster.connect import _in_use\n"
    code += "with _in_use(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    for folder in (killed, new):
        (folder / "ray").mkdir(parents=True)
        subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    used.mkdir()
    other.mkdir()  # without a lock it is not known to be ours
    with connect._in_use(used):
        for folder in (killed, used):
            os.utime(folder / connect.LOCK, (0, 0))
        connect._remove_left_over()
        assert sorted(tmp_path.iterdir()) == [new, other, used]
