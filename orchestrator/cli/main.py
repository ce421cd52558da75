"""The command line: `strata pretrain`, `sweep`, `submit`, `report`, `recipes`, `show`, `neighbors`, `masks`, `sync`,
`ui` and `doctor`.

Exit status 0: done; 1: the work failed; 2: the input is wrong. Heavy imports wait until work starts,
so that `strata --help` answers at once.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

STARTED = time.time()
DEFAULT_RECIPE = "demo"

app = typer.Typer(
    help="Pretrain vision encoders without labels, on this machine or on a Ray cluster.\n\n"
    "`strata pretrain` alone runs a demonstration that takes two minutes; `strata pretrain small-sd-mocov3 "
    "data.train=FOLDER` trains on your own images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console()
errors = Console(stderr=True)

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]…",
        help="A bundled recipe's name or a YAML file, then keys to set: `optim.epochs=20 data.train=FOLDER`.",
        show_default=False,
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _place(text: str) -> Path:
    from ssl_core.files import as_path

    return as_path(text)


PLACE = {"parser": _place, "metavar": "FOLDER|URI", "show_default": False}


def _set_address(address: str | None) -> None:
    if address is not None:
        os.environ["RAY_ADDRESS"] = address


Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="The Ray cluster to run on.  [default: RAY_ADDRESS, else one of its own on this machine]",
        show_default=False,
        callback=_set_address,
        expose_value=False,
    ),
]

RunFolder = Annotated[Path, typer.Argument(help="A run's folder.", **PLACE)]
SomeImages = Annotated[
    list[str] | None,
    typer.Option(help="A training image by number, or by the end of its file's name; may be repeated."),
]
AfterEpoch = Annotated[int | None, typer.Option(help="After which epoch.  [default: the last]")]
PictureFile = Annotated[
    Path | None, typer.Option(help="The PNG file.  [default: in the run's plots/]", show_default=False)
]


@app.command()
def pretrain(
    words: Words = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The run's folder, or its place in a store.  [default: strata-runs/NAME-TIME]", **PLACE),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the run in this folder, from its newest checkpoint.", **PLACE)
    ] = None,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Train one encoder. Without a recipe: `demo`, on bundled handwritten digits.

    `strata pretrain small-sd-mocov3 data.train=FOLDER` trains on your own images; no labels are needed.

    `strata recipes` lists the recipes, `strata show RECIPE --explain` says what can be set.
    """
    from orchestrator.runs.display import warn
    from orchestrator.runs.folder import new_run, resumed_run
    from orchestrator.runs.record import pretrain as run_pretraining
    from orchestrator.runs.record import show_summary
    from ssl_core import recipes
    from ssl_core.errors import InputError

    recipe, overrides = _split(words)
    if resume is not None:
        if recipe is not None or output is not None:
            raise InputError("--resume: takes no recipe and no --output; the folder has its own config.yaml")
        run = resumed_run(resume, overrides)
    else:
        run = new_run(recipes.load(recipe or DEFAULT_RECIPE, overrides), output)
        for remark in recipes.remarks(recipe or DEFAULT_RECIPE, overrides):
            warn(console, remark)
    distill = f" + hidden self-distillation (α {run.config.distill.alpha:g})" if run.config.distill else ""
    console.print(
        f"[bold]{run.config.name}[/bold]: {run.config.method_name}{distill}, {run.config.backbone.name} "
        f"at {run.config.backbone.image_size} px, {run.config.optim.epochs} epochs → {run.output}",
        highlight=False,
        soft_wrap=True,
    )
    try:
        summary = run_pretraining(run, console, STARTED)
    except KeyboardInterrupt:
        if (run.output / "checkpoints").exists():
            console.print(f"stopped; go on with: [bold]strata pretrain --resume {run.output}[/bold]", soft_wrap=True)
        else:
            console.print("stopped before the first checkpoint")
        raise
    show_summary(summary, run.output, console)


@app.command()
def sweep(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPACE.yaml] [KEY=VALUE]…",
            help="What to vary, then keys for the sweep (`trials=8`) or for all its runs (`optim.epochs=4`).",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="The sweep's folder, or its place in a store.  [default: strata-runs/NAME-TIME]", **PLACE),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the sweep in this folder.", **PLACE)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and say what it would cost, but train nothing.")
    ] = False,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Find good settings: many runs, each with other settings, the bad ones stopped early.

    `strata sweep search_spaces/smoke.yaml` shows how it goes, in three minutes; `strata sweep
    search_spaces/joint.yaml data.train=FOLDER --dry-run` says what a search on your own images would take.

    It ends with the best settings, a report, and `best.yaml` for `strata pretrain best.yaml`.
    """
    from orchestrator.cluster.room import nodes
    from orchestrator.runs.display import warn
    from orchestrator.sweeps.file import Sweep, sweep_at
    from orchestrator.sweeps.plan import make_plan, show_plan
    from ssl_core.errors import InputError

    file, overrides = _split(words)
    if resume is not None:
        if words or output is not None:
            raise InputError("--resume: takes no YAML, no keys and no --output; the folder has its own sweep.yaml")
        described = sweep_at(resume, "--resume")
    elif file is None:
        raise InputError("expected a YAML file, such as search_spaces/smoke.yaml; `strata sweep --help` says more")
    else:
        described = Sweep(Path(file), overrides)
    plan = make_plan(described)
    if dry_run:
        show_plan(plan, console, nodes())
        return
    from orchestrator.sweeps.watch import new_sweep, run_sweep

    folder = resume.absolute() if resume else new_sweep(described, output)
    console.print(
        f"[bold]{described.config.name}[/bold]: {plan.runs} trials → {folder}", highlight=False, soft_wrap=True
    )
    for remark in plan.remarks:
        warn(console, remark)
    try:
        run_sweep(plan, folder, console)
    except KeyboardInterrupt:
        console.print(f"stopped; go on with: [bold]strata sweep --resume {folder}[/bold]", soft_wrap=True)
        raise


@app.command()
def report(
    sweep: Annotated[str, typer.Argument(help="A sweep's folder, or its MLflow run id.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Say what a sweep has found so far: the best settings, which settings matter; with pictures and a page.

    Everything is written into the sweep's folder: `report.html` (one file, to pass on), `report/*.png`, `best.yaml`.
    """
    from orchestrator.sweeps.report import read_report, show_report
    from orchestrator.tracking.mlflow import folder_of

    folder = place if (place := _place(sweep)).exists() else folder_of(sweep)
    found = read_report(folder)
    found.write(folder)
    show_report(found, folder, console)


@app.command()
def recipes(debug: Debug = False) -> None:
    """List the bundled recipes."""
    from ssl_core import recipes

    table = Table(box=None, pad_edge=False, show_header=False)
    for name in recipes.names():
        table.add_row(f"[bold]{name}[/bold]", recipes.title(name))
    console.print(table, highlight=False)
    console.print("\n`strata show RECIPE` shows one; `strata pretrain RECIPE data.train=FOLDER` runs it.")


@app.command()
def show(
    words: Words = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each key means.")] = False,
    debug: Debug = False,
) -> None:
    """Show a recipe's resolved configuration; what differs from the defaults is marked with *."""
    from orchestrator.runs.display import warn
    from ssl_core import recipes
    from ssl_core.errors import InputError
    from ssl_core.schema.run import RunConfig

    recipe, overrides = _split(words)
    try:
        config = recipes.load(recipe or DEFAULT_RECIPE, overrides)
    except InputError as error:
        if not str(error).startswith("data.train: missing") or "\n" in str(error):
            raise
        config = recipes.load(recipe or DEFAULT_RECIPE, [*overrides, "data.train=FOLDER"])
    given = {"data": {"train": config.data.train}}
    if config.framework is not None:
        given["framework"] = {"name": config.framework.name}
    else:
        given["objectives"] = [{"name": objective.name} for objective in config.objectives]
    if config.distill is not None:
        given["distill"] = {}
    defaults = recipes.flatten(RunConfig.model_validate(given))
    table = Table(box=None, pad_edge=False)
    for title in ("", "key", "value", "meaning" if explain else "default"):
        table.add_column(title, no_wrap=title == "key", overflow="fold")
    for key, value in recipes.flatten(config).items():
        changed = defaults.get(key) != value
        row = (f"[bold]{key}[/bold]", f"[bold]{value}[/bold]") if changed else (key, str(value))
        default = str(defaults.get(key, "")) if changed else ""
        table.add_row("*" if changed else "", *row, recipes.describe(config, key) if explain else default)
    console.print(table, highlight=False)
    for remark in recipes.remarks(recipe or DEFAULT_RECIPE, overrides):
        warn(console, remark)


@app.command()
def neighbors(
    run: RunFolder,
    image: SomeImages = None,
    epoch: AfterEpoch = None,
    output: PictureFile = None,
    debug: Debug = False,
) -> None:
    """Draw images of a run with their neighbours in order, each with the probability of being its partner.

    A red frame says that the neighbour has another label. Runs with `positives.kind=adasim` or `nearest`
    have neighbours; `strata neighbors RUN --image 12 --image cats/tom.jpg` shows those of two images.
    """
    from ssl_core.pictures.neighbors import draw_neighbors

    _draw("neighbors", draw_neighbors, run, image, epoch, output)


@app.command()
def masks(
    run: RunFolder,
    image: SomeImages = None,
    epoch: AfterEpoch = None,
    output: PictureFile = None,
    debug: Debug = False,
) -> None:
    """Draw images of a run, what its student sees of them, and how well it predicts the rest.

    For each target layer a map of the loss by patch, and for MAE the image with what it predicts. Runs of `ijepa`,
    `mae` and `bootleg` hide patches; an epoch needs its checkpoint.
    """
    from ssl_core.pictures.masks import draw_masks

    _draw("masks", draw_masks, run, image, epoch, output)


def _draw(
    name: str,
    draw: Callable[..., Path],
    folder: Path,
    names: list[str] | None,
    epoch: int | None,
    output: Path | None,
) -> None:
    """Draw a picture of images of a run, and say where it is."""
    from orchestrator.runs.folder import run_at
    from ssl_core.data.sources import open_images
    from ssl_core.pictures.run import find_images

    run = run_at(folder, "RUN")
    source = open_images(run.config.data).train
    images = find_images(source, names or [])
    name += "".join(f"_{image}" for image in images) + (f"_epoch{epoch}" if epoch else "")
    target = draw(run.config, run.output, source, output or run.plots / f"{name}.png", epoch, images)
    console.print(f"{target}", highlight=False, soft_wrap=True)


@app.command()
def sync(
    run: Annotated[Path, typer.Argument(help="A run's or a sweep's folder.", **PLACE)],
    debug: Debug = False,
) -> None:
    """Deliver to MLflow what it missed while it was away: figures, pictures, the end of the run.

    Runs deliver by themselves as soon as MLflow answers again, at the latest when they end or are resumed; this is for
    those that ended before. Nothing is doubled.
    """
    from orchestrator.errors import WorkFailed
    from orchestrator.tracking import mlflow as tracking
    from orchestrator.tracking.courier import StoreAway

    try:
        for tracker in tracking.sync(run):
            console.print(f"{tracker.folder}: MLflow run {tracker.run_id} at {tracker.uri}", soft_wrap=True)
    except StoreAway as error:
        raise WorkFailed(f"{error}; nothing is lost, try again later") from error


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
    uri: Annotated[str | None, typer.Option(help="MLflow store.  [default: the one in use]")] = None,
    debug: Debug = False,
) -> None:
    """Open the MLflow page on the store in use: runs, figures by epoch, pictures."""
    from orchestrator.tracking.mlflow import sqlite_file, store_uri
    from ssl_core.errors import InputError

    uri = uri or store_uri()
    if uri.startswith("http"):
        console.print(f"the tracking server is at {uri}")
        return
    if (file := sqlite_file(uri)) is not None and not file.exists():
        raise InputError(f"no MLflow store at {uri} yet: run `strata pretrain` here first, or give --uri")
    console.print(f"MLflow on {uri}: [bold]http://127.0.0.1:{port}[/bold] (Ctrl-C ends it)", soft_wrap=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    sys.stdout.flush()
    os.execv(sys.executable, [*command, "--port", str(port), "--workers", "1"])  # its signals and status are ours


@app.command()
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


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
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


def main() -> None:
    """The `strata` program."""
    debug = "--debug" in sys.argv
    try:
        sys.exit(app(standalone_mode=False))  # the status of a typer.Exit; 130 for Ctrl-C
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        errors.print(f"[red]error:[/red] {_message(error)}", highlight=False, soft_wrap=True)
        sys.exit(_status(error))


def _split(words: list[str] | None) -> tuple[str | None, list[str]]:
    """The recipe, if there is one, and the KEY=VALUE words."""
    from ssl_core.errors import InputError

    names = [word for word in words or [] if "=" not in word]
    if len(names) > 1:
        raise InputError(f"one recipe at a time, got {', '.join(names)}; keys are set as KEY=VALUE")
    return (names[0] if names else None), [word for word in words or [] if "=" in word]


def _message(error: Exception) -> str:
    from rich.markup import escape

    text = error.format_message() if hasattr(error, "format_message") else str(error)
    hint = "" if _is_expected(error) else f"\n({type(error).__name__}; --debug shows the traceback)"
    return escape(f"{text}{hint}")


def _is_expected(error: Exception) -> bool:
    from orchestrator.errors import WorkFailed
    from ssl_core.errors import InputError

    return isinstance(error, (InputError, WorkFailed)) or hasattr(error, "format_message")


def _status(error: Exception) -> int:
    from ssl_core.errors import InputError

    return 2 if isinstance(error, InputError) or hasattr(error, "format_message") else 1
