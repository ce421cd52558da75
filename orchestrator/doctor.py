"""What this machine can run, and what is missing."""

import importlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.tracking import RUNS, sqlite_file, store_uri

NEEDED_DISK, NEEDED_SHM = 5 << 30, 1 << 30


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do (empty: nothing)."""

    what: str
    found: str
    todo: str = ""


def examine(console: Console) -> bool:
    """Print all findings; whether nothing is missing."""
    table = Table(box=None, pad_edge=False, show_header=False)
    healthy = True
    for finding in _findings():
        healthy &= not finding.todo
        mark = "[red]✗[/red]" if finding.todo else "[green]✓[/green]"
        table.add_row(mark, finding.what, finding.found + (f"\n→ {finding.todo}" if finding.todo else ""))
    console.print(table, highlight=False)
    return healthy


def _findings() -> Iterator[Finding]:
    yield Finding("python", sys.version.split()[0])
    for name in ("torch", "torchvision", "timm", "ray", "mlflow", "pyarrow", "faiss"):
        yield _attempt(name, lambda name=name: importlib.import_module(name).__version__, f"pip install {name}")
    yield _attempt("devices", _devices, "reinstall torch")
    yield _attempt("neighbour search", _search, "pip install faiss-gpu (Linux x86-64) or faiss-cpu")
    yield Finding(
        "CPUs", f"{len(os.sched_getaffinity(0))}" if hasattr(os, "sched_getaffinity") else str(os.cpu_count())
    )
    runs = RUNS.absolute()
    existing = next(folder for folder in (runs, *runs.parents) if folder.exists())
    writable = os.access(existing, os.W_OK)
    yield Finding("output", str(runs), "" if writable else f"{existing} is not writable; give --output")
    yield _space("disk", existing, NEEDED_DISK, "checkpoints need room: free some, or give --output elsewhere")
    if Path("/dev/shm").exists():
        yield _space("shared memory", Path("/dev/shm"), NEEDED_SHM, "Ray's object store lives there: enlarge it")
    address = os.environ.get("RAY_ADDRESS")
    yield Finding("Ray cluster", address or "none named: runs start one on this machine")
    yield _attempt("MLflow store", _store, "set tracking.uri to a store that can be reached")


def _attempt(what: str, look: Callable[[], str], todo: str) -> Finding:
    try:
        return Finding(what, look())
    except Exception as error:  # whatever is wrong with an installation, say it and go on
        return Finding(what, f"{type(error).__name__}: {str(error)[:100]}", todo)


def _space(what: str, path: Path, needed: int, todo: str) -> Finding:
    free = shutil.disk_usage(path).free
    return Finding(what, f"{free / (1 << 30):.1f} GiB free at {path}", "" if free >= needed else todo)


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return "CPU only"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _search() -> str:
    import faiss

    return f"FAISS on {faiss.get_num_gpus()} GPUs" if faiss.get_num_gpus() else "FAISS on the CPU"


def _store() -> str:
    uri = store_uri()
    if (file := sqlite_file(uri)) is not None:
        return f"{uri} ({'exists' if file.exists() else 'made by the first run'})"
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    return uri
