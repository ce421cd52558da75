"""Kills a random process of a run or sweep at a random moment, many times, and looks at what is left.

Two Ray nodes with a token (clusters/local-two-nodes.sh), a run of two workers with a neighbour index, or a sweep, and
an MLflow server. Each round kills one of: a worker, an index actor, the second node's raylet, the driver (which is
then resumed) or the tracking server (which then comes back). After it the weights must be bit for bit those of an
undisturbed run, MLflow must have every figure once, and no process may be left.

    python -m tests.chaos.chaos --rounds 50 --save rounds.jsonl

About a minute and a half a round on two cores. A round's seed is in its line: --only SEED plays it again.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow import MlflowClient

from tests.images import draw_stripes
from tests.orchestrator.cluster.two_nodes import TwoNodes
from tests.orchestrator.tracking.mlflow_server import MlflowServer

VICTIMS = {
    "pretrain": ("worker", "index", "raylet", "driver", "server"),
    "sweep": ("worker", "raylet", "driver", "server"),
}
TITLES = {  # of Ray's processes
    ("pretrain", "worker"): "ray::RayTrainWorker",
    ("sweep", "worker"): "ray::ResourceTrainable",
    ("pretrain", "index"): "ray::IndexShard",
}
ACTORS = ("RayTrainWorker", "IndexShard", "Mailbox", "TrainController", "ResourceTrainable")
PATIENCE = 420.0  # seconds for a command to end
ORPHANS_END = 30.0  # seconds that processes have to end after their run
TIMING = ("images_per_second", "data_wait")
RUN = {
    "optim.epochs": 8,
    "optim.batch_size": 16,
    "optim.warmup_epochs": 0,
    "backbone.kwargs.embed_dim": 32,
    "backbone.kwargs.depth": 2,
    "framework.hidden_dim": 32,
    "framework.output_dim": 16,
    "data.workers": 0,
    "positives.window": 2,
    "checkpoint.every_steps": 3,
    "scaling.max_failures": 5,
}


@dataclass
class Round:
    """What was done, and what came of it.

    Attributes:
        seed: of this round alone.
        moment: seconds after the command's start at which `victim` was killed.
        killed: whether there was such a process before the end.
        ended: whether all commands ended well.
        equal: weights and figures are bit for bit those of an undisturbed run.
        complete: MLflow has every figure once, and the end.
        orphans: processes that were left.
        recovery: seconds from the kill to the next checkpoint.
    """

    seed: int
    what: str
    victim: str
    moment: float
    killed: bool = False
    ended: bool = False
    equal: bool = False
    complete: bool = False
    orphans: list[str] = field(default_factory=list)
    recovery: float | None = None
    seconds: float = 0.0
    said: str = ""

    @property
    def survived(self) -> bool:
        return self.ended and self.equal and self.complete and not self.orphans


class Harness:
    """Rounds on one cluster and one server."""

    def __init__(self, folder: Path, cluster: TwoNodes, server: MlflowServer):
        self.folder, self.cluster, self.server = folder, cluster, server
        self.images = draw_stripes(folder / "images", {"": 48})
        self._undisturbed: dict[str, tuple[dict[str, Any], float]] = {}

    def undisturbed(self, what: str) -> tuple[dict[str, Any], float]:
        """What comes of a run that nothing happens to; how long it takes."""
        if what not in self._undisturbed:
            output = self.folder / f"{what}-whole"
            began = time.monotonic()
            process = self._start(what, output)
            said = process.communicate(timeout=PATIENCE)[0]
            assert process.returncode == 0, said
            self._undisturbed[what] = self._result(what, output), time.monotonic() - began
        return self._undisturbed[what]

    def play(self, what: str, seed: int, victim: str | None = None) -> Round:
        """One round; `seed` says when, and whom, where no `victim` is named."""
        expected, duration = self.undisturbed(what)
        chance = random.Random(seed)
        victim = victim or chance.choice(VICTIMS[what])
        played = Round(seed, what, victim, round(chance.uniform(0.0, duration), 2))
        output = self.folder / f"{what}-{seed}"
        began = time.monotonic()
        process = self._start(what, output)
        try:
            self._kill(played, process, output, began + played.moment)
            played.ended, played.said = self._see_it_end(played, process, what, output)
            if played.ended:
                played.equal = self._result(what, output) == expected
                played.complete = self._is_complete(what, output)
            played.orphans = self._orphans()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        played.seconds = round(time.monotonic() - began, 1)
        if played.survived:
            shutil.rmtree(output)
        return played

    def _start(self, what: str, output: Path, resume: bool = False) -> subprocess.Popen:
        if resume:
            words = [what, "--resume", str(output)]
        elif what == "pretrain":
            settings = {**RUN, "data.train": self.images, "scaling.workers": 2, "scaling.cpus_per_worker": 1}
            settings |= {"scaling.index_shards": 2, "tracking.uri": self.server.address}
            words = [what, "small-adasim-sd-mocov3", *(f"{k}={v}" for k, v in settings.items())]
            words += ["--output", str(output)]
        else:
            words = [what, str(self._sweep()), "--output", str(output)]
        env = {**self.cluster.env, "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            cwd=self.folder,
            start_new_session=True,
        )

    def _sweep(self) -> Path:
        file = self.folder / "chaos.yaml"
        values = {
            "recipe": "small-adasim-sd-mocov3",
            "overrides": {**RUN, "data.train": str(self.images), "tracking.uri": self.server.address},
            "space": {"distill.alpha": {"uniform": [0.0, 1.0]}, "optim.lr": {"loguniform": [1e-4, 1e-2]}},
            "metric": "rankme/last",
            "searcher": "random",
            "scheduler": "none",
            "trials": 4,
        }
        file.write_text(yaml.safe_dump(values))
        return file

    def _kill(self, played: Round, process: subprocess.Popen, output: Path, when: float) -> None:
        """Wait for the moment, or for a victim that is not there yet; kill it."""
        while process.poll() is None:
            if time.monotonic() >= when and (found := self._victims(played, process)):
                break
            time.sleep(0.1)
        else:
            return
        played.killed = True
        if played.victim == "server":
            self.server.kill()
        elif played.victim == "raylet":
            self.cluster.kill_second()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(random.Random(played.seed).choice(found), signal.SIGKILL)
        killed = time.time()
        if played.victim == "raylet":
            time.sleep(random.Random(played.seed).uniform(0.0, 10.0))
            self.cluster.add_second()
        if played.victim in ("worker", "index"):
            while process.poll() is None and _newest(output) < killed:
                time.sleep(0.1)
            if process.poll() is None:
                played.recovery = round(time.time() - killed, 1)

    def _victims(self, played: Round, process: subprocess.Popen) -> list[int]:
        if played.victim in ("server", "raylet"):
            return [0]
        if played.victim == "driver":
            return [process.pid]
        title = TITLES[played.what, played.victim]
        return sorted(pid for pid, args in self.cluster.processes().items() if args.startswith(title))

    def _see_it_end(self, played: Round, process: subprocess.Popen, what: str, output: Path) -> tuple[bool, str]:
        """Wait for the command, resume it where its driver was killed, bring the server back."""
        if played.victim == "server" and random.Random(played.seed).random() < 0.5:
            self.server.start()  # while the run goes on
        try:
            said = process.communicate(timeout=PATIENCE)[0]
            if played.victim == "driver" and played.killed:
                begun = (output / ("config.yaml" if what == "pretrain" else "sweep.yaml")).exists()
                if not begun:
                    shutil.rmtree(output, ignore_errors=True)
                process = self._start(what, output, resume=begun)
                said += process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired as late:
            os.killpg(process.pid, signal.SIGKILL)
            return False, f"did not end: {(late.stdout or b'')[-3000:]!r}"
        ended = process.returncode == 0
        if played.victim == "server":
            if not self.server.runs:
                self.server.start()
            command = [sys.executable, "-m", "orchestrator", "sync", str(output)]
            synced = subprocess.run(command, env=self.cluster.env, capture_output=True, text=True, check=False)
            said += synced.stdout + synced.stderr
            # Where its store was away from the beginning, a run says so and does not start.
            if not ended and "does not answer" in said and not (output / "metrics.jsonl").exists():
                shutil.rmtree(output, ignore_errors=True)
                process = self._start(what, output)
                said += process.communicate(timeout=PATIENCE)[0]
                ended = process.returncode == 0
        return ended, "" if ended else said[-3000:]

    def _result(self, what: str, output: Path) -> dict[str, Any]:
        """Weights and figures."""
        if what == "pretrain":
            return {"weights": _digest(output / "model.safetensors"), "figures": _figures(output)}
        found = {}
        for trial in output.glob("trials/*"):
            about, model = json.loads((trial / "trial.json").read_text()), trial / "model.safetensors"
            result = {"status": about["status"], "figures": _figures(trial)}
            # Trials that start at once may get each other's numbers.
            found[json.dumps(about["settings"])] = result | ({"weights": _digest(model)} if model.exists() else {})
        return found

    def _is_complete(self, what: str, output: Path) -> bool:
        """Whether MLflow has every figure of every run once, and that it has ended."""
        client = MlflowClient(self.server.address)
        folders = [output] if what == "pretrain" else sorted(output.glob("trials/*"))
        for folder in folders:
            run_id = json.loads((folder / "mlflow.json").read_text())["run_id"]
            if client.get_run(run_id).info.status != "FINISHED":
                return False
            records = _records(folder)
            for name in ("loss", "rankme/last", "epoch"):
                expected = [(int(r["epoch"]), r[name]) for r in records if name in r]
                got = [(m.step, m.value) for m in client.get_metric_history(run_id, name)]
                if sorted(got) != expected:
                    return False
        if what == "sweep":
            run_id = json.loads((output / "mlflow.json").read_text())["run_id"]
            return client.get_run(run_id).info.status == "FINISHED"
        return True

    def _orphans(self) -> list[str]:
        """Actors and drivers that are still there some time after the end."""
        deadline = time.monotonic() + ORPHANS_END
        while left := [
            title for title in self.cluster.processes().values() if any(title.startswith(f"ray::{a}") for a in ACTORS)
        ]:
            if time.monotonic() > deadline:
                return left
            time.sleep(0.5)
        return []


def _newest(output: Path) -> float:
    """When the newest checkpoint was written; 0 if there is none yet."""
    times = []
    for file in output.glob("**/checkpoints/*.sha256"):
        with contextlib.suppress(FileNotFoundError):
            times.append(file.stat().st_mtime)
    return max(times, default=0.0)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _records(folder: Path) -> list[dict[str, float]]:
    file = folder / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _figures(folder: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in record.items() if key not in TIMING} for record in _records(folder)]


@contextlib.contextmanager
def harness(folder: Path) -> Iterator[Harness]:
    """A cluster and a server, for as many rounds as one likes."""
    server = MlflowServer(f"sqlite:///{folder / 'mlflow.db'}")
    server.start()
    try:
        with TwoNodes(Path(tempfile.mkdtemp(prefix="two-", dir="/tmp")) / "nodes") as cluster:
            yield Harness(folder, cluster, server)
    finally:
        server.kill()


def table(rounds: list[Round]) -> str:
    """Rounds by what was killed; those that had ended before the moment came are counted below."""
    early = sum(not played.killed for played in rounds)
    rounds = [played for played in rounds if played.killed]
    groups: dict[tuple[str, str], list[Round]] = collections.defaultdict(list)
    for played in rounds:
        groups[played.what, played.victim].append(played)
    lines = ["| killed | rounds | survived | bit-equal | figures complete | nothing left | seconds to go on |"]
    lines.append("|---|---|---|---|---|---|---|")

    def line(name: str, group: list[Round]) -> str:
        times = [played.recovery for played in group if played.recovery is not None]
        cells = [name, len(group), *(sum(getattr(r, key) for r in group) for key in ("ended", "equal", "complete"))]
        cells += [sum(not r.orphans for r in group), f"{statistics.median(times):.0f}" if times else ""]
        return f"| {' | '.join(map(str, cells))} |"

    lines += [line(f"{what}: {victim}", group) for (what, victim), group in sorted(groups.items())]
    return "\n".join([*lines, line("all", rounds), f"\n{early} more had ended before somebody was to be killed."])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the next have the following numbers")
    parser.add_argument("--only", type=int, help="this round alone")
    parser.add_argument("--what", choices=["pretrain", "sweep"], help="default: both in turn")
    parser.add_argument("--save", type=Path, help="write each round here, a JSON object a line")
    arguments = parser.parse_args()
    seeds = [arguments.only] if arguments.only is not None else range(arguments.seed, arguments.seed + arguments.rounds)
    rounds = []
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with harness(folder) as played_on:
        for seed in seeds:
            what = arguments.what or ("sweep" if seed % 2 else "pretrain")
            rounds.append(played_on.play(what, seed))
            line = json.dumps(asdict(rounds[-1]))
            print(line, flush=True)
            if arguments.save:
                with open(arguments.save, "a") as file:
                    file.write(line + "\n")
    print(table(rounds))
    if all(played.survived for played in rounds):
        shutil.rmtree(folder)
        return 0
    print(f"what is left of the others: {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
