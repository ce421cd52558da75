"""What this machine or a cluster can run, and what is missing."""

import contextlib
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.about import versions
from orchestrator.cluster.connect import connected, embedded
from orchestrator.cluster.seen import check_seen, on_each_node
from orchestrator.cluster.token import has_token
from orchestrator.paths import RUNS
from orchestrator.runs.folder import check_writable
from orchestrator.tracking.store import Store
from ssl_core.files import is_local

NEEDED_DISK, NEEDED_SHM = 5 << 30, 1 << 30
MUST_AGREE = ("python", "ray", "torch", "strata-ssl")  # on all nodes: they exchange pickled messages and weights


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do (empty: nothing)."""

    what: str
    found: str
    todo: str = ""


def examine(console: Console, output: Path | None = None, client: str | None = None) -> bool:
    """Print all findings; whether nothing is missing.

    Args:
        output: where runs are going to be written; default: strata-runs here.
        client: the versions of who sends a job, as JSON.
    """
    table = Table(box=None, pad_edge=False, show_header=False)
    healthy = True
    for finding in _findings((output or RUNS).absolute(), client):
        healthy &= not finding.todo
        mark = "[red]✗[/red]" if finding.todo else "[green]✓[/green]"
        table.add_row(mark, Text(finding.what), Text(finding.found + (f"\n→ {finding.todo}" if finding.todo else "")))
    console.print(table, highlight=False)
    return healthy


def _version(module: str) -> str:
    return importlib.import_module(module).__version__


def _findings(output: Path, client: str | None) -> Iterator[Finding]:
    yield Finding("python", sys.version.split()[0])
    for name in ("torch", "torchvision", "timm", "ray", "mlflow", "pyarrow", "faiss"):
        yield _attempt(name, partial(_version, name), f"pip install {name}")
    if client is not None:
        yield _agreement("the sender's versions", {"there": json.loads(client), "here": versions()})
    if embedded():
        yield from _machine(output)
        yield Finding("Ray cluster", "none named (RAY_ADDRESS, --address): runs start one on this machine's loopback")
    else:
        yield from _cluster(output)
    yield _attempt("MLflow store", _store, "set tracking.uri or MLFLOW_TRACKING_URI to a store that can be reached")


def _machine(output: Path) -> Iterator[Finding]:
    yield _attempt("devices", _devices, "reinstall torch")
    yield _attempt("neighbour search", _search, "pip install faiss-gpu (Linux x86-64) or faiss-cpu")
    yield Finding(
        "CPUs", f"{len(os.sched_getaffinity(0))}" if hasattr(os, "sched_getaffinity") else str(os.cpu_count())
    )
    yield _attempt("output", lambda: _writable(output), "give --output a folder or URI that can be written to")
    if is_local(output):
        todo = "checkpoints need room: free some, or give --output elsewhere"
        yield _space("disk", _existing(output), NEEDED_DISK, todo)
    if Path("/dev/shm").exists():
        yield _space("shared memory", Path("/dev/shm"), NEEDED_SHM, "Ray's object store lives there: enlarge it")


def _cluster(output: Path) -> Iterator[Finding]:
    import ray

    address = os.environ["RAY_ADDRESS"]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(connected())
        except Exception as error:
            todo = f"start one, or unset RAY_ADDRESS ({address}) to run on this machine"
            yield Finding("Ray cluster", str(error), todo)
            return
        total = ray.cluster_resources()
        seen = on_each_node(_look, output)
        yield Finding(
            "Ray cluster",
            f"{address}: {len(seen)} node(s), {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs",
            "" if total.get("CPU") else "no node has a CPU for workers: add one",
        )
        token = os.environ.get("RAY_AUTH_MODE", "").lower() == "token" or has_token()
        yield Finding(
            "token",
            "in use" if token else "none",
            "" if token else "whoever reaches the cluster runs code on it: set RAY_AUTH_MODE=token on every node",
        )
        for node, found in seen.items():
            yield Finding(f"node {node}", f"{found['devices']}; {found['search']}")
            if is_local(output):
                yield _room("  disk", found["disk"], NEEDED_DISK, f"free some at {output}")
            yield _room("  shared memory", found["shm"], NEEDED_SHM, "Ray's object store lives there: enlarge it")
        yield _agreement("versions on the nodes", {node: found["versions"] for node, found in seen.items()})
        yield _attempt(
            "output",
            lambda: _shared(output),
            "give --output a folder that all nodes share (NFS, EFS, Filestore, …), or an object store's URI",
        )


def _look(output: Path) -> dict[str, Any]:
    """What a node is like; runs there."""
    shm = Path("/dev/shm")
    return {
        "versions": versions(),
        "devices": _devices(),
        "search": _search(),
        "disk": shutil.disk_usage(_existing(output)).free if is_local(output) else None,
        "shm": shutil.disk_usage(shm).free if shm.exists() else NEEDED_SHM,
    }


def _writable(output: Path) -> str:
    check_writable(output)
    return str(output)


def _shared(output: Path) -> str:
    check_seen(output, [])
    return f"{output} is seen and writable from every node"


def _agreement(what: str, found: dict[str, dict[str, str]]) -> Finding:
    """Whether all have the same versions."""
    differing, todo = [], ""
    for name in sorted({name for known in found.values() for name in known}):
        has = {who: known.get(name, "none") for who, known in found.items()}
        if len(set(has.values())) > 1:
            differing.append(f"{name}: " + ", ".join(f"{number} ({who})" for who, number in has.items()))
            if name in MUST_AGREE:
                todo = f"install the same {', '.join(MUST_AGREE)} everywhere"
    return Finding(what, "; ".join(differing) or "agree", todo)


def _attempt(what: str, look: Callable[[], str], todo: str) -> Finding:
    try:
        return Finding(what, look())
    except Exception as error:  # whatever is wrong with an installation, say it and go on
        return Finding(what, f"{type(error).__name__}: {str(error)[:200]}", todo)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _space(what: str, path: Path, needed: int, todo: str) -> Finding:
    return _room(what, shutil.disk_usage(path).free, needed, todo)


def _room(what: str, free: int, needed: int, todo: str) -> Finding:
    return Finding(what, f"{free / (1 << 30):.1f} GiB free", "" if free >= needed else todo)


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"{os.cpu_count()} CPUs, no GPU"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _search() -> str:
    import faiss

    return f"FAISS on {faiss.get_num_gpus()} GPUs" if faiss.get_num_gpus() else "FAISS on the CPU"


def _store() -> str:
    store = Store.of()
    if store.file is not None:
        check_writable(store.file.parent)
        store.look()
        return f"{store.uri} ({'exists' if store.file.exists() else 'made by the first run'})"
    client = store.connect()
    known = client.get_experiment_by_name("strata-doctor")
    experiment = known.experiment_id if known else client.create_experiment("strata-doctor")
    client.set_experiment_tag(experiment, "looked", "here")
    return f"{store.uri} (answers, and can be written)"
