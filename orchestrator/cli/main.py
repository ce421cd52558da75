"""The command line: every command's text, options and errors are here, what it does is elsewhere.

Exit status 0: done; 1: the work failed; 2: the input is wrong. Heavy imports wait until work starts, so that
`strata --help` answers at once.
"""

import sys
import traceback
from collections.abc import Callable

import typer

from orchestrator.cli import look, serve, train, use
from orchestrator.cli.app import app, errors, print_anything

COMMANDS: list[Callable[..., None]] = [train.pretrain, train.sweep, use.evaluate, use.duplicates, use.export, use.embed]
COMMANDS += [look.report, look.recipes, look.show, look.neighbors, look.masks, serve.sync, serve.ui, serve.doctor]
for command in COMMANDS:
    app.command()(command)
app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})(serve.submit)


def main() -> None:
    """The `strata` program."""
    print_anything()
    debug = "--debug" in sys.argv
    try:
        sys.exit(app(standalone_mode=False))  # the status of a typer.Exit; 130 for Ctrl-C
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        if debug:
            traceback.print_exc()
        from orchestrator.runs.display import say

        say(errors, "[red]error:[/red] {message}", message=_message(error))
        sys.exit(_status(error))


def _message(error: Exception) -> str:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    hint = "" if _is_expected(error) else f"\n({type(error).__name__}; --debug shows the traceback)"
    return f"{text}{hint}"


def _is_expected(error: Exception) -> bool:
    from orchestrator.errors import WorkFailed
    from ssl_core.errors import InputError

    return isinstance(error, (InputError, WorkFailed)) or hasattr(error, "format_message")


def _status(error: Exception) -> int:
    from ssl_core.errors import InputError

    return 2 if isinstance(error, InputError) or hasattr(error, "format_message") else 1
