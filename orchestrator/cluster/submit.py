"""A command as a job on a Ray cluster: checked, sent, and its output shown; it goes on without us."""

import asyncio
import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.about import versions
from orchestrator.cluster.connect import quiet
from orchestrator.cluster.token import HINT, has_token
from orchestrator.errors import WorkFailed
from orchestrator.runs.display import say, warn
from ssl_core.errors import InputError
from ssl_core.schema.urls import without_credentials

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
COMMANDS = ("pretrain", "sweep", "report", "sync", "doctor")
NOT_SENT = ["strata-runs", "*.pt", "*.safetensors", "mlflow.db"]
PASSED_ON = ("MLFLOW_TRACKING_URI",)  # from here to the job
NOT_SENT_HINT = (
    "for the dashboard shows a job's command and environment: "
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the cluster's nodes are started"
)
STOP_WAIT = "60"  # seconds in which a stopped job may write its checkpoint
RECONNECT = 2.0  # seconds until a broken connection is tried again
RECONNECTS = 30


def submit(words: Sequence[str], address: str | None, folder: Path, check: bool, wait: bool, console: Console) -> int:
    """Send `strata WORDS` to the cluster whose dashboard is at `address`, with the files of `folder` beside it.

    Args:
        check: look first whether the cluster can run it.
        wait: show its output until it ends; otherwise come back at once.

    Returns:
        its exit status: 0 done, 1 failed or stopped.

    Raises:
        InputError: no such cluster, a wrong token, or the cluster cannot run it.
        WorkFailed: the connection was lost for long. The job goes on.
    """
    if not words or words[0] not in COMMANDS:
        raise InputError(f"expected a command for the cluster ({', '.join(COMMANDS)}), such as: strata submit pretrain")
    secret = any(without_credentials(text) != text for text in (*words, *_passed_on().values()))
    words = [without_credentials(word) for word in words]
    if secret:
        warn(console, f"names and passwords in URLs are not sent, {NOT_SENT_HINT}")
    for missing, remedy in _left_behind(words):
        warn(console, f"{missing} will be in the job's own folder on the cluster, and go with it; {remedy}")
    client = _connect(address)
    if check and words[0] != "doctor":
        console.print("looking at the cluster …")
        _examine(client, folder, console)
    job = _send(client, words, folder)
    say(console, "job [bold]{job}[/bold]: strata {words}", job=job, words=shlex.join(words))
    console.print(
        f"it goes on without this terminal: `ray job logs --follow {job}` shows it again, `ray job stop {job}` ends it",
        highlight=False,
        soft_wrap=True,
    )
    if not wait:
        return 0
    status = _follow(client, job, lambda text: console.out(text, end="", highlight=False))
    console.print(f"job {job}: {status}", highlight=False)
    return 0 if status == "SUCCEEDED" else 1


def _passed_on() -> dict[str, str]:
    return {key: os.environ[key] for key in PASSED_ON if key in os.environ}


def _left_behind(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What of a run would be lost with the job's folder, and how to keep it."""
    if words[0] not in ("pretrain", "sweep") or "--resume" in words:
        return
    if not any(word.startswith("--output") for word in words):
        yield "weights and figures", "give --output a folder or URI that you can reach"
    if "MLFLOW_TRACKING_URI" not in os.environ and not any(word.startswith("tracking.uri=") for word in words):
        yield "the MLflow store", "name one: tracking.uri=http://…, or MLFLOW_TRACKING_URI, which is passed on"


def _connect(address: str | None) -> Any:
    quiet()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # which set a level of their own
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.ERROR)
    address = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    if has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # it would win over the argument
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        known = "the cluster does not take this token" if has_token() else f"the cluster wants a token: {HINT}"
        raise InputError(f"{address}: {known}") from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--address: no Ray dashboard answers at {address}; `ray dashboard` or `kubectl port-forward` tunnels"
        ) from error


def _examine(client: Any, folder: Path, console: Console) -> None:
    said: list[str] = []
    words = ["doctor", "--client", json.dumps(versions())]
    if _follow(client, _send(client, words, folder), said.append) != "SUCCEEDED":
        console.out("".join(said), highlight=False)
        raise InputError("the cluster is not ready for this; --no-check sends it all the same")


def job_of(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """A job as Ray is given it, and as its dashboard shows it to everybody: without names and passwords in URLs."""
    passed_on = {key: without_credentials(value) for key, value in _passed_on().items()}
    runtime = {
        "working_dir": str(folder),
        "excludes": NOT_SENT,
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": STOP_WAIT, **passed_on},
    }
    return {"entrypoint": shlex.join(["strata", *map(without_credentials, words)]), "runtime_env": runtime}


def _send(client: Any, words: Sequence[str], folder: Path) -> str:
    try:
        return client.submit_job(**job_of(words, folder))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--working-dir: {folder} cannot be sent: {str(error).splitlines()[0]}") from error


def _follow(client: Any, job: str, listen: Callable[[str], None]) -> str:
    """Hand what the job prints to `listen` until it ends, also when the connection breaks; its status.

    Raises:
        WorkFailed: the connection does not come back. The job goes on.
    """
    heard = 0

    async def tail() -> None:
        nonlocal heard
        seen = 0
        async for text in client.tail_job_logs(job):  # each time from the beginning
            new = text[max(0, heard - seen) :]
            seen += len(text)
            heard = max(heard, seen)
            if new:
                listen(new)

    lost: Exception | None = None
    for _ in range(RECONNECTS):
        try:
            asyncio.run(tail())
            status = client.get_job_status(job)
            if status.is_terminal():
                return status.value
        except (ConnectionError, RuntimeError, OSError) as error:
            lost = error
        time.sleep(RECONNECT)
    raise WorkFailed(f"the connection is lost ({lost}); the job goes on: ray job logs --follow {job}")
