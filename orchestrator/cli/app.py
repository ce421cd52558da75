"""The program's frame: its help, where it prints, when it began."""

import io
import sys
import time
from typing import Annotated

import typer
from rich.console import Console

STARTED = time.time()

app = typer.Typer(
    help="Pretrain vision encoders without labels, on this machine or on a Ray cluster.\n\n"
    "`strata pretrain` alone runs a demonstration that takes two minutes; `strata pretrain small-sd-mocov3 "
    "data.train=FOLDER` trains on your own images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)


def print_anything() -> None:
    """Let no sign end the program: what a terminal or a file cannot take is printed as `\\u03b1`.

    A log may be in ASCII, and a file's name need not be UTF-8 at all.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _show_versions(wanted: bool) -> None:
    if wanted:
        from orchestrator.about import versions

        found = versions()
        for name, version in {"strata": found.pop("strata-ssl", "not installed"), **found}.items():
            console.print(f"{name:<12} {version}", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version",
        help="Show the versions of Strata and of what it stands on.",
        is_eager=True,
        callback=_show_versions,
    ),
]


@app.callback()
def strata(version: Version = False) -> None:
    """What can be said before a command."""
