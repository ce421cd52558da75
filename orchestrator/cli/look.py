"""Commands that look: `report`, `recipes`, `show`, `neighbors`, `masks`."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.cli.app import console
from orchestrator.cli.options import (
    DEFAULT_RECIPE,
    AfterEpoch,
    Debug,
    PictureFile,
    RunFolder,
    SomeImages,
    Words,
    place_of,
    split,
)

if TYPE_CHECKING:
    from ssl_core.recipes.table import Row
    from ssl_core.schema.run import RunConfig


def report(
    what: Annotated[
        str,
        typer.Argument(metavar="DIR", help="A run's or a sweep's folder, or its MLflow run id.", show_default=False),
    ],
    debug: Debug = False,
) -> None:
    """Write a page on a run or a sweep: one HTML file to pass on, with its answer, tables and pictures.

    Of a run: what was trained on what, curves, every layer, what `strata evaluate` has measured, the nearest and the
    worst images. Of a sweep, so far: the best settings, which settings matter, `best.yaml`.
    """
    from orchestrator.runs.display import say, warn
    from orchestrator.sweeps.file import SWEEP_FILE
    from orchestrator.sweeps.report import read_report, show_report
    from orchestrator.tracking.mlflow import folder_of

    folder = place if (place := place_of(what)).exists() else folder_of(what)
    if (folder / SWEEP_FILE).is_file():
        found = read_report(folder)
        found.write(folder)
        show_report(found, folder, console)
        return
    from orchestrator.runs.folder import run_at
    from orchestrator.runs.report import read_report as read_run
    from orchestrator.runs.report import write_report

    tell = partial(warn, console)
    of_run = read_run(run_at(folder, "DIR"), tell)
    for sentence in of_run.answer():
        say(console, "{text}", text=sentence)
    say(console, "page {page}", page=write_report(of_run, tell))


def recipes(debug: Debug = False) -> None:
    """List the bundled recipes."""
    from ssl_core import recipes

    table = Table(box=None, pad_edge=False, show_header=False)
    for name in recipes.names():
        table.add_row(f"[bold]{name}[/bold]", Text(recipes.title(name)))
    console.print(table, highlight=False)
    console.print("\n`strata show RECIPE` shows one; `strata pretrain RECIPE data.train=FOLDER` runs it.")


def show(
    words: Words = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each key means.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Look at the images and the network too, as a run does before it starts."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Show a recipe's resolved configuration; what differs from the defaults is marked with *.

    `for` says what a key is for: *science* changes what is learned, *operation* only where and how fast.

    Every key is checked, and what belongs together. Whether timm has the model, whether the network can do what is
    asked of it, and whether the images are there and enough, `--check` says in a few seconds more.
    """
    from orchestrator.runs.display import warn
    from ssl_core import recipes
    from ssl_core.errors import InputError

    recipe, overrides = split(words)
    try:
        config = recipes.load(recipe or DEFAULT_RECIPE, overrides)
    except InputError as error:
        if check or not str(error).startswith("data.train: missing") or "\n" in str(error):
            raise
        config = recipes.load(recipe or DEFAULT_RECIPE, [*overrides, "data.train=FOLDER"])
    (_explain if explain else _tabulate)(recipes.rows(config))
    for remark in recipes.remarks(recipe or DEFAULT_RECIPE, overrides):
        warn(console, remark)
    if check:
        _check(config)


def _tabulate(rows: list["Row"]) -> None:
    """A line for each key, with its default where it has another value."""
    from ssl_core.recipes import typed

    table = Table(box=None, pad_edge=False)
    for title in ("", "key", "value", "for", "default"):
        table.add_column(title, no_wrap=title in ("key", "for"), overflow="fold")
    for row in rows:
        shown = [Text(text, "bold" if row.changed else "") for text in (row.key, typed(row.value))]
        purpose, default = Text(str(row.purpose), "dim"), Text(typed(row.default) if row.changed else "")
        table.add_row("*" if row.changed else "", *shown, purpose, default)
    console.print(table, highlight=False)


def _explain(rows: list["Row"]) -> None:
    """Each key as it is typed, and below it what it means."""
    from ssl_core.recipes import typed

    for row in rows:
        mark = "* " if row.changed else "  "
        setting = Text(f"{mark}{row.key}={typed(row.value)}", "bold" if row.changed else "")
        console.print(setting.append(f"   {row.purpose}", "not bold dim"), highlight=False)
        if row.meaning:
            console.print(Padding(Text(row.meaning), (0, 0, 0, 6)), highlight=False)


def _check(config: "RunConfig") -> None:
    """What needs torch and the images to be known."""
    from orchestrator.runs.display import warn
    from orchestrator.runs.supervise import check_method
    from ssl_core.data.sources import open_images
    from ssl_core.positives.checks import remarks

    images = open_images(config.data)
    check_method(config, images)
    for remark in (*images.remarks, *remarks(config)):
        warn(console, remark)
    console.print(f"images, network and objectives fit: {len(images.train):,} training images", highlight=False)


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
    from orchestrator.runs.display import say
    from orchestrator.runs.folder import run_at
    from ssl_core.data.sources import open_images
    from ssl_core.pictures.run import find_images

    run = run_at(folder, "RUN")
    source = open_images(run.config.data).train
    images = find_images(source, names or [])
    name += "".join(f"_{image}" for image in images) + (f"_epoch{epoch}" if epoch else "")
    target = draw(run.config, run.output, source, output or run.plots / f"{name}.png", epoch, images)
    say(console, "{target}", target=target)
