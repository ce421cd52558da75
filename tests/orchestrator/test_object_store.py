"""Runs and sweeps whose folder and images are in an object store: S3, as a server on this machine speaks it."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from moto.server import ThreadedMotoServer
from rich.console import Console

from orchestrator.pretrain import pretrain
from orchestrator.results import read_trials
from orchestrator.runs import new_run
from ssl_core import recipes
from ssl_core.files import as_path, sha256
from tests.orchestrator.conftest import TINY
from tests.orchestrator.sweeps import write_sweep

RECIPE = [
    "small-adasim-sd-mocov3",
    *TINY,
    "positives.window=1",
    "checkpoint.every_steps=4",
    "optim.epochs=4",
    "evaluation=[]",
]


@pytest.fixture(scope="module")
def bucket() -> Iterator[Path]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("RAY_ADDRESS", raising=False)
        bucket = as_path("s3://strata")
        bucket.fs.mkdir("strata")
        yield bucket
    server.stop()


@pytest.fixture(scope="module")
def parquet(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The training images as two Parquet files."""
    files = sorted((folders / "train").rglob("*.png"))
    folder = tmp_path_factory.mktemp("parquet")
    for number in range(2):
        columns = {"image": [file.read_bytes() for file in files[number::2]]}
        pq.write_table(pa.table(columns), folder / f"{number}.parquet", row_group_size=10)
    return folder


def test_a_run_lives_in_an_object_store(ray_session: None, bucket: Path, parquet: Path, tmp_path: Path) -> None:
    """Its images too; it is stopped and goes on, and ends with the weights of a run on a disk."""
    recipe, *words = RECIPE
    config = recipes.load(recipe, [*words, f"data.train={parquet}"])
    pretrain(new_run(config, tmp_path / "here"), Console(quiet=True), started=0.0)

    for file in parquet.iterdir():
        (bucket / "images" / file.name).write_bytes(file.read_bytes())
    output = bucket / "runs" / "there"
    program = [sys.executable, "-m", "orchestrator", "pretrain"]
    command = [*program, *RECIPE, f"data.train={bucket / 'images'}", "--output", str(output)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": tmp_path}
    process = subprocess.Popen(command, **pipes)
    deadline = time.monotonic() + 120
    while not (output / "checkpoints" / "epoch_0001.sha256").exists():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert f"strata pretrain --resume {output}" in printed

    done = subprocess.run([*program, "--resume", str(output)], timeout=200, check=False, **pipes)
    assert done.returncode == 0, done.stdout
    assert "going on after epoch" in done.stdout
    assert sha256(output / "model.safetensors") == sha256(tmp_path / "here" / "model.safetensors")
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(5))
    assert (output / "plots" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("checkpoints/*there*"))


def test_a_sweep_lives_in_an_object_store(bucket: Path, folders: Path, tmp_path: Path, strata) -> None:
    """Its trials take over one another's weights there."""
    file = write_sweep(
        tmp_path,
        folders,
        space={"optim.lr": {"grid": [1e-2, 1e-8]}, "distill.alpha": {"uniform": [0.0, 1.0]}},
        searcher="random",
        scheduler={"name": "pbt", "every": 1, "quantile": 0.5},
        metric="loss",
        mode="min",
        trials=2,
        overrides={"optim.epochs": 2},
    )
    output = bucket / "sweeps" / "there"
    done = strata("sweep", str(file), "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial.status for trial in read_trials(output)] == ["FINISHED"] * 2
    assert list(output.glob("trials/*/taken_over.jsonl"))
    assert yaml.safe_load((output / "best.yaml").read_text())["optim"]
    assert not (output / "tune").exists()
    assert strata("report", str(output)).returncode == 0


@pytest.mark.parametrize("place", ["s3://no-such-bucket/run", "nowhere://run"])
def test_a_place_that_cannot_be_used_is_named_before_work_starts(place: str, bucket: Path, strata) -> None:
    done = strata("pretrain", "--output", place)
    assert done.returncode == 2
    assert place in done.stderr
    assert len(done.stderr) < 400


def test_images_in_a_store_are_parquet(bucket: Path, folders: Path, strata) -> None:
    (bucket / "pictures" / "1.png").write_bytes(next(folders.rglob("*.png")).read_bytes())
    done = strata("pretrain", "small-simclr", f"data.train={bucket / 'pictures'}")
    assert done.returncode == 2
    assert "Parquet alone" in done.stderr


def test_a_path_names_what_it_did(tmp_path: Path) -> None:
    assert as_path("~/x") == Path(os.path.expanduser("~/x"))
    assert as_path(tmp_path) is tmp_path
