"""Two Ray nodes with a token: doctor, jobs, workers on both, a node that is lost and comes back."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.orchestrator.cluster.two_nodes import TwoNodes
from tests.orchestrator.conftest import TINY

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with TwoNodes(Path(tempfile.mkdtemp(prefix="two-", dir="/tmp")) / "nodes") as nodes:
        yield nodes


def start(
    nodes: TwoNodes, folder: Path, *words: str, stdout: int | IO[str] = subprocess.PIPE, **env: str | None
) -> subprocess.Popen:
    """A strata command in `folder`; None takes a variable away."""
    values = {**nodes.env, "MLFLOW_TRACKING_URI": os.environ["MLFLOW_TRACKING_URI"], **env}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=folder,
        env={key: value for key, value in values.items() if value is not None},
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(nodes: TwoNodes, folder: Path, *words: str, **env: str | None) -> tuple[int, str]:
    process = start(nodes, folder, *words, **env)
    printed, _ = process.communicate(timeout=300)
    return process.returncode, printed


def records(output: Path) -> list[dict]:
    file = output / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_doctor_looks_at_every_node(nodes: TwoNodes, tmp_path: Path) -> None:
    status, printed = run(nodes, tmp_path, "doctor", "--output", str(tmp_path / "runs"))
    assert status == 0, printed
    assert "2 node(s), 2 CPUs" in printed
    assert printed.count("node 127.0.0.1") == 2
    assert "seen and writable from every node" in printed
    assert "agree" in printed


@pytest.mark.parametrize("token", ["none", "wrong"])
def test_without_the_token_nothing_is_done(token: str, nodes: TwoNodes, tmp_path: Path) -> None:
    env = {"RAY_AUTH_TOKEN_PATH": None, "RAY_AUTH_MODE": None, "HOME": str(tmp_path), "RAY_NUM_REDIS_GET_RETRIES": "2"}
    if token == "wrong":
        env |= {"RAY_AUTH_TOKEN": "0" * 64}
    status, printed = run(nodes, tmp_path, "pretrain", "--output", str(tmp_path / "run"), **env)
    assert status == 2, printed
    assert "token" in printed
    assert not (tmp_path / "run").exists()
    status, printed = run(nodes, tmp_path, "submit", "pretrain", **env)
    assert status == 2, printed
    assert "token" in printed


def test_a_folder_that_not_all_nodes_see_is_refused(nodes: TwoNodes, tmp_path: Path) -> None:
    # To each process this path means another folder, as a path on a machine's own disk does.
    status, printed = run(nodes, tmp_path, "pretrain", "--output", "/proc/self/cwd/run")
    assert status == 2, printed
    assert "does not see /proc/self/cwd/run" in printed


def test_a_job_trains_on_both_nodes(nodes: TwoNodes, folders: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"extends: small-adasim-sd-mocov3\ndata: {{train: {folders / 'train'}}}\n")
    output = tmp_path / "run"
    words = ["mine.yaml", *TINY, "scaling.workers=2", "scaling.index_shards=2", "--output", str(output)]
    store = f"tracking.uri={os.environ['MLFLOW_TRACKING_URI']}"
    status, printed = run(nodes, tmp_path, "submit", "pretrain", *words, store)
    assert status == 0, printed
    assert "2 worker(s)" in printed
    assert "SUCCEEDED" in printed
    assert json.loads((output / "summary.json").read_text())["status"] == "FINISHED"


# As an autoscaler says it that may start another node.
CAN_START_ONE = """
import ray
from ray.core.generated.autoscaler_pb2 import ClusterConfig
from ray.experimental.internal_kv import _internal_kv_put

ray.init(log_to_driver=False)
config = ClusterConfig()
for name in ("head", "workers"):
    config.node_group_configs.add(name=name, max_count=1, resources={"CPU": 1})
_internal_kv_put(b"__autoscaler_cluster_config", config.SerializeToString(), namespace=b"__autoscaler")
"""


def test_a_run_waits_for_a_node_that_the_cluster_can_start(nodes: TwoNodes, folders: Path, tmp_path: Path) -> None:
    nodes.kill_second()
    words = ["small-simclr", *TINY, f"data.train={folders / 'train'}", "evaluation=[]", "scaling.workers=2"]
    words += ["scaling.cpus_per_worker=1", "--output", str(tmp_path / "run")]
    deadline = time.monotonic() + 90
    while "1 node(s)" not in (said := run(nodes, tmp_path, "doctor"))[1]:
        assert time.monotonic() < deadline, said
    status, printed = run(nodes, tmp_path, "pretrain", *words)
    assert status == 2, printed
    assert "1 node(s) with 1 CPUs and 0 GPUs hold 1" in printed
    subprocess.run([sys.executable, "-c", CAN_START_ONE], env=nodes.env, check=True, capture_output=True)
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        process = start(nodes, tmp_path, "pretrain", *words, stdout=file)
    deadline = time.monotonic() + 120
    while "looking for room" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)
    nodes.add_second()
    assert process.wait(timeout=180) == 0, log.read_text()
    assert " 2 worker(s)" in log.read_text()
    assert "process was lost" not in log.read_text()


def test_a_run_goes_on_as_nodes_come_and_go(nodes: TwoNodes, folders: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    words = ["small-simclr", *TINY, f"data.train={folders / 'train'}", "optim.epochs=4000", "checkpoint.every_steps=2"]
    words += ["scaling.workers=[1,2]", "scaling.cpus_per_worker=1", "evaluation=[]", "--output", str(output)]
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        process = start(nodes, tmp_path, "pretrain", *words, stdout=file)

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 150
        while text not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{log.read_text()}\nno {text!r}"
            time.sleep(0.2)

    wait_for("epoch 3 ")
    nodes.kill_second()
    wait_for(" 1 worker(s)")
    nodes.add_second()
    wait_for("there is room for more than 1 worker(s)")
    grown = len(records(output))
    wait_for(f"epoch {grown + 2} ")
    nodes.drain_second()
    wait_for("a node is about to leave")
    left = len(records(output))
    wait_for(f"epoch {left + 2} ")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130, log.read_text()
    assert "going on from the newest checkpoint" in log.read_text()
    workers = re.findall(r"training on .* (\d) worker\(s\)", log.read_text())
    assert [count for count, _ in itertools.groupby(workers)] == ["2", "1", "2", "1"], log.read_text()
    assert [record["epoch"] for record in records(output)] == list(range(len(records(output))))
