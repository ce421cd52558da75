"""`strata embed`: from what was typed to files of features, in this process or on Ray."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from orchestrator.cluster.connect import embedded
from orchestrator.runs.display import say, warn
from orchestrator.runs.folder import absolute_paths, claimed
from orchestrator.use.layers import chosen_layers
from ssl_core.data.loading import loader_count
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Source
from ssl_core.errors import InputError
from ssl_core.files import as_path
from ssl_core.networks.weights import is_hub
from ssl_core.recipes import Setting
from ssl_core.use.embed import Output, Told, describe, write_shard
from ssl_core.use.opening import open_subject
from ssl_core.use.subject import Subject, own_device

NAMED = 5  # broken images that are named
SHARDS_PER_WORKER = 4  # at least so many, that all are busy to the end


@dataclass(frozen=True)
class Wish:
    """What somebody wants embedded, as it was typed.

    Attributes:
        data: a folder of images, Parquet, or a source by name.
        layers: `best`, `last`, or numbers.
        half: float16.
        workers: Ray workers; more than one, or a cluster, makes it run there.
        words: `KEY=VALUE`.
    """

    what: str
    data: str
    output: Path
    layers: str = "last"
    half: bool = False
    workers: int = 1
    words: Sequence[str] = ()

    @property
    def on_ray(self) -> bool:
        """Whether Ray's workers do it."""
        return self.workers > 1 or not embedded()

    def settings(self) -> list[str | Setting]:
        """The images in the place of the run's own, of which nothing but the column of images stays; what was typed."""
        return [Setting("data.train", self.data), Setting("scaling.workers", self.workers), *self.words]


def open_wish(wish: Wish) -> tuple[Subject, Source, tuple[str, ...]]:
    """The encoder, the images, and what may not be meant.

    Raises:
        InputError: one of them cannot be opened.
    """
    subject = open_subject(wish.what, wish.settings())
    subject = replace(subject, config=absolute_paths(subject.config))
    try:
        images = open_images(subject.config.data)
    except InputError as error:
        raise InputError(str(error).replace("data.train", "DATA", 1)) from error
    return subject, images.train, (*subject.remarks, *images.remarks)


def run(wish: Wish, console: Console, rows: int | None = None) -> Path:
    """Embed; returns the file, or the folder of files.

    Args:
        rows: images of a shard.

    Raises:
        InputError: something of the wish cannot be.
        WorkFailed: a worker failed; what was embedded is kept, and the same command goes on.
    """
    subject, source, remarks = open_wish(wish)
    layers = chosen_layers(subject, wish.layers)
    about = describe(subject, source, layers, wish.half, rows)
    if wish.on_ray:
        about = replace(about, rows=max(1, min(about.rows, -(-about.images // (SHARDS_PER_WORKER * wish.workers)))))
    output = Output(wish.output.absolute(), about, shared=wish.on_ray)
    for remark in remarks:
        warn(console, remark)
    listed = ", ".join(map(str, layers))
    say(
        console,
        "[bold]{name}[/bold]: {model} at {size} px, layer {layers}, on {count} images",
        name=subject.name,
        model=about.model,
        size=about.image_size,
        layers=listed,
        count=len(source),
    )
    output.begin()
    with nullcontext() if output.single else claimed(output.folder, new=False):
        _embed(wish, subject, source, output, console)
    _end(output, console)
    return output.place


def _embed(wish: Wish, subject: Subject, source: Source, output: Output, console: Console) -> None:
    """Write what is missing."""
    missing = output.missing
    if done := output.about.shards - len(missing):
        say(console, "{done} of {shards} files are there already", done=done, shards=output.about.shards)
    if not missing:
        return
    with _Bar(console, sum(len(output.about.span(shard)) for shard in missing)) as tell:
        if wish.on_ray:
            from orchestrator.use.embed_on_ray import embed_on_ray

            embed_on_ray(_absolute(wish, subject), subject.config, output, missing, tell)
        else:
            _embed_here(subject, source, output, missing, tell)


def _absolute(wish: Wish, subject: Subject) -> Wish:
    """The same for processes whose working folder is another."""
    place = as_path(wish.what)
    what = str(place.absolute()) if not is_hub(wish.what) and place.exists() else wish.what
    return replace(wish, what=what, data=str(subject.config.data.train))


def _embed_here(subject: Subject, source: Source, output: Output, missing: Sequence[int], tell: Told) -> None:
    subject.to(own_device())
    loaders = loader_count(subject.config.data.workers)
    for shard in missing:
        write_shard(subject, source, output, shard, loaders, tell)


class _Bar:
    """A bar of images in a terminal; elsewhere nothing."""

    def __init__(self, console: Console, total: int):
        columns = (TextColumn("images"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
        self._progress = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._progress.add_task("images", total=total)

    def __enter__(self) -> Told:
        self._progress.start()
        return lambda count: self._progress.update(self._task, advance=count)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _end(output: Output, console: Console) -> None:
    broken = output.broken()
    if broken:
        names = ", ".join(broken[:NAMED]) + (", …" if len(broken) > NAMED else "")
        warn(console, f"{len(broken)} images cannot be decoded and were left out: {names}")
    count = output.about.images - len(broken)
    say(console, "features of {count} images are in {place}", count=count, place=output.place)
