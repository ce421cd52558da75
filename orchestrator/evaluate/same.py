"""`strata duplicates`: which images are there twice, as a list, a table and a picture."""

import csv
import io
from pathlib import Path

from rich.console import Console

from orchestrator.evaluate.display import Steps
from orchestrator.evaluate.plan import Plan
from orchestrator.evaluate.record import check_folder, context_of, folder_of
from orchestrator.runs.display import say, warn
from ssl_core.evaluation.duplicates import Duplicates, find_duplicates
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.files import write_atomically
from ssl_core.pictures.duplicates import group_picture
from ssl_core.pictures.run import save_figure
from ssl_core.schema.evaluation import DuplicatesConfig
from ssl_core.use.subject import own_device

FEW = 200  # images of train below which the threshold is a guess
LISTED, MEMBERS = 10, 4  # groups that are shown in the terminal, images of each
LIST, PICTURE = "duplicates.csv", "duplicates.png"


def duplicates(plan: Plan, output: Path | None, console: Console) -> Duplicates:
    """Find near-duplicates among a plan's images, and say which; a list and a picture go into `output`.

    Raises:
        InputError: there are too few images.
    """
    (config,) = plan.config.evaluation
    assert isinstance(config, DuplicatesConfig)
    folder = (output or folder_of(plan)).absolute()
    check_folder(folder)
    with Steps(console) as steps:
        context = context_of(plan, own_device(), steps.tell)
        layer = layers_measured(config, context.depth)[-1] - 1
        found = find_duplicates(context, layer, config.max_train, config.max_val)
    assert found is not None, "in one process"
    folder.mkdir(parents=True, exist_ok=True)
    _write_list(found, plan, folder / LIST)
    _show(found, plan, console)
    say(console, "list {list}", list=folder / LIST)
    if found.groups:
        shown = [[(m.split, m.index, m.similarity) for m in group] for group in [*found.leaks, *_others(found)]]
        title = f"near-duplicates: cosine similarity from {found.threshold:.3f} on"
        say(console, "picture {file}", file=save_figure(group_picture(plan.images, shown, title), folder / PICTURE))
    return found


def _others(found: Duplicates) -> list:
    leaks = {id(group) for group in found.leaks}
    return [group for group in found.groups if id(group) not in leaks]


def _write_list(found: Duplicates, plan: Plan, file: Path) -> None:
    """A row an image: its group, from 1, its set, its file, and how alike it is to the nearest other one."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["group", "set", "image", "similarity"])
    for number, group in enumerate(found.groups, start=1):
        for member in group:
            where = getattr(plan.images, member.split).where(member.index)
            rows.writerow([number, member.split, where, f"{member.similarity:.4f}"])
    write_atomically(file, lambda handle: handle.write(text.getvalue().encode()))


def _show(found: Duplicates, plan: Plan, console: Console) -> None:
    train = len(plan.images.train)
    console.print(
        f"{len(found.groups)} groups of near-duplicates (cosine from {found.threshold:.4f} on): {found.superfluous} of "
        f"{train} images of train are there once more",
        highlight=False,
    )
    if plan.images.val is not None:
        console.print(f"{found.leaked} of {len(plan.images.val)} images of val look like one of train", highlight=False)
    if train < FEW and found.groups:
        warn(console, f"of {train} images little can be said of how alike neighbours are: look at the picture")
    for number, group in enumerate(found.groups[:LISTED], start=1):
        members = [
            f"{m.split} {getattr(plan.images, m.split).where(m.index)} ({m.similarity:.3f})" for m in group[:MEMBERS]
        ]
        more = f" and {len(group) - MEMBERS} more" if len(group) > MEMBERS else ""
        say(console, "{number}: {members}{more}", number=number, members=", ".join(members), more=more)
    if len(found.groups) > LISTED:
        console.print(f"and {len(found.groups) - LISTED} groups more, in {LIST}", highlight=False)
