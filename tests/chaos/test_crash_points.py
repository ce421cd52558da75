"""A few rounds of `python -m tests.chaos.crash_points`, whose long form is a command."""

import subprocess
import sys


def test_a_run_killed_before_an_operation_on_its_files_loses_nothing() -> None:
    # In a process without threads, which can be forked.
    command = [sys.executable, "-m", "tests.chaos.crash_points", "--rounds", "10"]
    played = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert played.returncode == 0, played.stdout + played.stderr
    assert ", 0 not" in played.stdout
