"""Commands for a trained encoder: `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import console
from orchestrator.cli.options import PLACE, Address, Debug


def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WHAT… [KEY=VALUE]…",
            help="A run's folder, its MLflow run id, a file of weights (with `backbone.name=MODEL`), or `timm:NAME`, "
            "which downloads; two of them are compared. Then keys: `data.train=FOLDER data.val=FOLDER`.",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Which evaluators: a suite's name, or a YAML file with an `evaluation` list.  [default: quick]"
        ),
    ] = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="KIND", help="An evaluator by name, in the place of a suite; may be repeated."),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="all, last, every:2, or numbers: 4,8.  [default: what each evaluator says]")
    ] = None,
    checkpoint: Annotated[
        int | None, typer.Option(metavar="EPOCH", help="Of a run: the weights after this epoch.  [default: the last]")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Where the results go.  [default: evaluation/SUITE in the run's folder]", **PLACE),
    ] = None,
    list_them: Annotated[bool, typer.Option("--list", help="Say which suites and evaluators there are.")] = False,
    address: Address = None,
    debug: Debug = False,
) -> None:
    """Measure a trained encoder, layer by layer, and say which layer to take.

    `strata evaluate RUN` takes a minute; `strata evaluate RUN --suite sdssl` measures what the paper does, `strata
    evaluate RUN --with linear --with fewshot` two things, `strata evaluate A B` says where two encoders differ.

    Figures are not measured twice: the same command goes on where it was stopped. They are in the run's folder, and in
    MLflow under the run. `--address` or `scaling.workers=4` spreads the work over Ray's workers.
    """
    from orchestrator.evaluate import compare, record
    from orchestrator.evaluate.display import list_evaluators
    from orchestrator.evaluate.plan import Wish, make_plan
    from orchestrator.evaluate.words import names_and_keys
    from orchestrator.runs.display import say, warn
    from ssl_core.errors import InputError

    if list_them:
        list_evaluators(console)
        return
    whats, keys = names_and_keys(words or [])
    if not 1 <= len(whats) <= 2:
        raise InputError(
            "expected an encoder to evaluate, or two to compare: a run's folder, a file of weights, timm:NAME"
        )
    chosen = tuple(kind for given in kinds or () for kind in given.split(","))
    wish = Wish(tuple(keys), suite, chosen, layers, checkpoint)
    plans = [make_plan(what, wish) for what in whats]
    if len(plans) == 2:
        compare.check(plans)
    done = []
    for plan in plans:
        say(console, "[bold]{name}[/bold]: {what}", name=plan.subject.name, what=plan.described)
        for remark in plan.remarks:
            warn(console, remark)
        own = output if output is None or len(plans) == 1 else output / plan.subject.name
        done.append(record.evaluate(plan, own, console))
        record.show(done[-1], console)
    if len(done) == 2:
        compare.compare(done[0], done[1], output, console)
