"""Ends a run before every single operation on its files, goes on, and looks whether anything was lost.

A run in one process, with neighbours and checkpoints within epochs. Each round is ended without a word (as by SIGKILL)
before one operation on a file: opening, renaming, removing one, making a folder. It is then gone on from, is ended once
more at a moment drawn at random, in most rounds while it is reading its checkpoints, and gone on from again. At the end
weights and figures must be bit for bit those of a run that nothing happened to, and nothing half-written may be left.

    python -m tests.chaos.crash_points                # every operation: about 15 minutes on one core
    python -m tests.chaos.crash_points --rounds 20    # spread over the run, the last ones always
"""

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssl_core.data.sources import open_images
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.events import CheckpointDue, EpochEnded, Event, Listener, Started
from ssl_core.training.history import History
from ssl_core.training.loop import Pretraining
from tests.conftest import tiny_config

CONFIG = tiny_config(
    data={"limit": 48},
    positives={"kind": "adasim", "window": 2, "top_k": 3},
    checkpoint={"every_steps": 2, "keep": 2, "best": "loss"},
    optim={"epochs": 3},
)
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate")
TIMING = ("images_per_second", "data_wait")
LAST = 6  # operations at a run's end, at which every form looks
KILLED = 137


class _Recorded(Listener):
    """Keeps checkpoints and figures in a folder, as a trial of a sweep does in its process."""

    def __init__(self, store: CheckpointStore, run: Pretraining, history: History):
        self.store, self.run, self.history = store, run, history

    def on(self, event: Event) -> None:
        if isinstance(event, Started):
            self.history.begin(list(event.history))
        elif isinstance(event, CheckpointDue):
            self.store.keep_within_epoch(self.run)
        elif isinstance(event, EpochEnded):
            self.store.keep(self.run)
            self.history.add(event.record)


def train(output: Path) -> None:
    """Begin the run in a folder, or go on with it, to its end."""
    output.mkdir(exist_ok=True)
    run, store = Pretraining(CONFIG, open_images(CONFIG.data)), CheckpointStore(output, CONFIG)
    store.restore(run, lambda message: None)
    run.run(_Recorded(store, run, History(output)))


def in_child(output: Path, crash_at: int | None = None) -> tuple[int, int]:
    """Train in a process of its own, which ends before its `crash_at`-th operation on files of `output`.

    Returns:
        Its exit status, and how many operations there were.
    """
    told, tell = os.pipe()
    child = os.fork()
    if child:
        os.close(tell)
        with open(told, "rb") as pipe:
            said = pipe.read()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), int(said or 0)
    done, place = 0, str(output)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event in OPERATIONS and str(arguments[0]).startswith(place):
            done += 1
            if done == crash_at:
                os._exit(KILLED)

    sys.addaudithook(look)
    try:
        train(output)
        os.write(tell, str(done).encode())
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def result(output: Path) -> dict[str, Any]:
    """What a run leaves behind."""
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    store = CheckpointStore(output, CONFIG)
    return {
        "weights": store.model_file.read_bytes() if store.model_file.exists() else b"none",
        "figures": [{name: value for name, value in record.items() if name not in TIMING} for record in records],
        "checkpoints": [path.name for path in store.paths()],
        "files": sorted(str(path.relative_to(output)) for path in output.rglob("*")),
    }


def play(folder: Path, crash_at: int, expected: dict[str, Any], chance: random.Random) -> str | None:
    """One round; what went wrong."""
    output = folder / f"{crash_at:04d}"
    first, _ = in_child(output, crash_at)
    # Going on begins with some fifteen operations of reading.
    second, _ = in_child(output, chance.randint(1, 20) if chance.random() < 0.7 else chance.randint(1, 2 * crash_at))
    last, _ = in_child(output) if second else (0, 0)
    if (first, second in (0, KILLED), last) != (KILLED, True, 0):
        return f"ended with {first}, {second}, {last}"
    found = result(output)
    wrong = [name for name in expected if found[name] != expected[name]]
    if wrong:
        return f"other {' and '.join(wrong)} than undisturbed"
    shutil.rmtree(output)
    return None


def rounds(folder: Path, number: int | None, report: Callable[[int, str | None], None], seed: int = 0) -> int:
    """So many rounds, spread over all operations, or one for each; how many operations there are."""
    torch.set_num_threads(1)  # a forked process has none of its parent's others
    status, operations = in_child(folder / "undisturbed")
    assert status == 0, "the undisturbed run failed"
    expected = result(folder / "undisturbed")
    end = range(max(1, operations - LAST + 1), operations + 1)
    spread = range(1, end.start, max(1, (end.start - 1) // max(1, number - LAST)) if number else 1)
    for crash_at in [*spread, *end]:
        report(crash_at, play(folder, crash_at, expected, random.Random(f"{seed} {crash_at}")))
    return operations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="how many; default: one for every operation")
    parser.add_argument("--seed", type=int, default=0, help="of the second moments (%(default)s)")
    arguments = parser.parse_args()
    played: list[str | None] = []

    def report(crash_at: int, wrong: str | None) -> None:
        played.append(wrong)
        if wrong:
            print(f"before operation {crash_at}: {wrong}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        operations = rounds(Path(name), arguments.rounds, report, arguments.seed)
    lost = sum(wrong is not None for wrong in played)
    print(f"{operations} operations, {len(played)} rounds: {len(played) - lost} bit-equal with weights, {lost} not")
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
