"""The program's frame: its help, where it prints, when it began."""

import time

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
console = Console()
errors = Console(stderr=True)
