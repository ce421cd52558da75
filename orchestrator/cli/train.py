"""`strata pretrain` and `strata sweep`."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.app import STARTED, console
from orchestrator.cli.options import DEFAULT_RECIPE, PLACE, Address, Debug, Words, split


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
    from orchestrator.runs.display import say, warn
    from orchestrator.runs.folder import claimed, new_run, resumed_run
    from orchestrator.runs.record import pretrain as run_pretraining
    from orchestrator.runs.record import show_summary
    from ssl_core import recipes
    from ssl_core.errors import InputError

    recipe, overrides = split(words)
    if resume is not None:
        if recipe is not None or output is not None:
            raise InputError("--resume: takes no recipe and no --output; the folder has its own config.yaml")
        run = resumed_run(resume, overrides)
    else:
        run = new_run(recipes.load(recipe or DEFAULT_RECIPE, overrides), output)
        for remark in recipes.remarks(recipe or DEFAULT_RECIPE, overrides):
            warn(console, remark)
    distill = f" + hidden self-distillation (α {run.config.distill.alpha:g})" if run.config.distill else ""
    what = f"{run.config.method_name}{distill}, {run.config.backbone.name} at {run.config.backbone.image_size} px"
    say(
        console,
        "[bold]{name}[/bold]: {what}, {epochs} epochs → {output}",
        name=run.config.name,
        what=what,
        epochs=run.config.optim.epochs,
        output=run.output,
    )
    try:
        with claimed(run.output, new=resume is None):
            summary = run_pretraining(run, console, STARTED)
    except KeyboardInterrupt:
        if (run.output / "checkpoints").exists():
            again = shlex.quote(str(run.output))
            say(console, "stopped; go on with: [bold]strata pretrain --resume {output}[/bold]", output=again)
        else:
            console.print("stopped before the first checkpoint")
        raise
    show_summary(summary, run.output, console)


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
    from orchestrator.runs.display import say, warn
    from orchestrator.runs.folder import claimed
    from orchestrator.sweeps.file import Sweep, sweep_at
    from orchestrator.sweeps.plan import make_plan, show_plan
    from ssl_core.errors import InputError

    file, overrides = split(words)
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
    name = described.config.name
    say(console, "[bold]{name}[/bold]: {trials} trials → {folder}", name=name, trials=plan.runs, folder=folder)
    for remark in plan.remarks:
        warn(console, remark)
    try:
        with claimed(folder, new=resume is None):
            run_sweep(plan, folder, console)
    except KeyboardInterrupt:
        again = shlex.quote(str(folder))
        say(console, "stopped; go on with: [bold]strata sweep --resume {folder}[/bold]", folder=again)
        raise
