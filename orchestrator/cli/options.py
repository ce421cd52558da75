"""Arguments and options that several commands have, and how words become a recipe and settings."""

import os
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_RECIPE = "demo"

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RECIPE] [KEY=VALUE]…",
        help="A bundled recipe's name or a YAML file, then keys to set: `optim.epochs=20 data.train=FOLDER`.",
        show_default=False,
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def place_of(text: str) -> Path:
    from ssl_core.files import as_path

    return as_path(text)


PLACE = {"parser": place_of, "metavar": "FOLDER|URI", "show_default": False}


def set_address(address: str | None) -> None:
    if address is not None:
        os.environ["RAY_ADDRESS"] = address


Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="The Ray cluster to run on.  [default: RAY_ADDRESS, else one of its own on this machine]",
        show_default=False,
        callback=set_address,
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


def split(words: list[str] | None) -> tuple[str | None, list[str]]:
    """The recipe, if there is one, and the KEY=VALUE words; a word that is a file's name is that file."""
    from ssl_core.errors import InputError
    from ssl_core.files import is_file

    given = words or []
    names = [word for word in given if "=" not in word or is_file(Path(word))]
    if len(names) > 1:
        raise InputError(f"one recipe at a time, got {', '.join(names)}; keys are set as KEY=VALUE")
    return (names[0] if names else None), [word for word in given if word not in names]
