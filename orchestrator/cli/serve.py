"""Commands about the places that a run has to do with: `sync`, `ui`, `doctor`, `submit`."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import console
from orchestrator.cli.options import PLACE, Address, Debug


def sync(
    run: Annotated[Path, typer.Argument(help="A run's or a sweep's folder.", **PLACE)],
    debug: Debug = False,
) -> None:
    """Deliver to MLflow what it missed while it was away: figures, pictures, the end of the run.

    Runs deliver by themselves as soon as MLflow answers again, at the latest when they end or are resumed; this is for
    those that ended before. What the server refused is offered to it once more. Nothing is doubled.
    """
    from orchestrator.errors import WorkFailed
    from orchestrator.runs.display import say
    from orchestrator.tracking import mlflow as tracking
    from orchestrator.tracking.faults import Undelivered

    try:
        for tracker in tracking.sync(run, lambda text: say(console, "{text}", text=text)):
            say(
                console,
                "{folder}: MLflow run {run} at {uri}",
                folder=tracker.folder,
                run=tracker.run_id,
                uri=tracker.uri,
            )
    except Undelivered as error:
        raise WorkFailed(f"{error}; nothing is lost, try again later") from error


def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    uri: Annotated[str | None, typer.Option(help="MLflow store.  [default: the one in use]")] = None,
    debug: Debug = False,
) -> None:
    """Open the MLflow page on the store in use: runs, figures by epoch, pictures."""
    from orchestrator.runs.display import say
    from orchestrator.tracking.store import Store
    from ssl_core.errors import InputError
    from ssl_core.schema.scaling import TrackingConfig

    store = Store.of(TrackingConfig(uri=uri))
    if store.uri.startswith("http"):
        say(console, "the tracking server is at {uri}", uri=store.uri)
        return
    if store.file is not None and not store.file.exists():
        raise InputError(f"no MLflow store at {store.uri} yet: run `strata pretrain` here first, or give --uri")
    say(console, "MLflow on {uri}: [bold]http://127.0.0.1:{port}[/bold] (Ctrl-C ends it)", uri=store.uri, port=port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    os.environ["MLFLOW_BACKEND_STORE_URI"] = store.connection  # a command's words are seen by everybody here
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    sys.stdout.flush()
    os.execv(sys.executable, [*command, "--port", str(port), "--workers", "1"])  # its signals and status are ours


def doctor(
    output: Annotated[
        Path | None,
        typer.Option(help="Where runs are going to be written.  [default: strata-runs]", **PLACE),
    ] = None,
    address: Address = None,
    client: Annotated[str | None, typer.Option(hidden=True)] = None,
    debug: Debug = False,
) -> None:
    """Say what this machine or cluster can run, and what is missing. Exit status 1 if something is.

    On a cluster: its nodes, GPUs, versions that differ, the token, room on disks and in shared memory, and whether
    every node sees the folder of runs.
    """
    from orchestrator.cluster.doctor import examine

    if not examine(console, output, client):
        raise typer.Exit(1)


def submit(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND …", help="What to run there: `pretrain …`, `sweep …`.", show_default=False),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The cluster's dashboard.  [default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265]",
            show_default=False,
        ),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option(help="Its files are sent along, and the command runs beside them (own recipes and YAMLs).")
    ] = Path("."),
    check: Annotated[bool, typer.Option(help="Look first whether the cluster can run it.")] = True,
    wait: Annotated[bool, typer.Option(help="Show what it prints until it ends.")] = True,
    debug: Debug = False,
) -> None:
    """Run a strata command on a Ray cluster, as a job that goes on when this terminal is gone.

    `strata submit pretrain sd-mocov3 data.train=/shared/images --output /shared/runs/first` is `ray job submit
    --working-dir . -- strata pretrain …` with a look at the token, the versions on both sides, the nodes and the MLflow
    store before. Options of submit itself stand before the command.
    """
    from orchestrator.cluster.submit import submit as send

    status = send(words or [], address, working_dir, check, wait, console)
    if status:
        raise typer.Exit(status)
