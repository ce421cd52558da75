"""One pretraining run from its configuration to its end: checks, what is shown, what is left behind."""

import json
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator.about import git_revision, versions
from orchestrator.errors import WorkFailed
from orchestrator.runs.display import RunDisplay, duration, layer_table, say, warn
from orchestrator.runs.folder import Run
from orchestrator.runs.supervise import Training, check_method
from orchestrator.tracking.courier import Courier
from orchestrator.tracking.mlflow import Tracker, check_store, track_run
from ssl_core.errors import InputError
from ssl_core.files import write_atomically
from ssl_core.training.events import EpochEnded, Event, Listener, Record, Started, Stepped, Warned, tell
from ssl_core.training.history import History

if TYPE_CHECKING:
    from ssl_core.data.sources.base import Images


def pretrain(run: Run, console: Console, started: float) -> dict[str, Any]:
    """Train `run` to its end; returns the summary, which also lies in its folder.

    Args:
        started: when the command began (time.time()), for the start-up time.

    Raises:
        InputError: something in the configuration cannot work; no training was started.
        WorkFailed: training failed; checkpoints and figures up to then are kept.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; `--resume` goes on.
    """
    from orchestrator.cluster.connect import connected
    from orchestrator.cluster.room import worker_share
    from orchestrator.cluster.seen import check_seen
    from ssl_core.data.sources import open_images
    from ssl_core.positives.checks import remarks

    images = open_images(run.config.data)
    for remark in (*images.remarks, *remarks(run.config)):
        warn(console, remark)
    check_store(run.config.tracking, run.output)
    # Starting takes many seconds on many processes. What this one imports and opens, it does meanwhile.
    with _keeps_config(run), interruptible(), ThreadPoolExecutor(1) as pool:
        checked = pool.submit(
            check_method, run.config, images, run.output, lambda text: say(console, "{text}", text=text)
        )
        if run.config.backbone.weights is not None:
            checked.result()  # a wrong file is said before anything starts
        with connected():
            share = worker_share(run.config.scaling, run.config.positives.searches)
            index_dim = checked.result()
            check_seen(run.output, run.config.paths)
            courier = Courier(lambda message: warn(console, message))
            tracker = pool.submit(_open_tracker, run, images, courier)
            training = Training(run, share, len(images.train), index_dim, lambda message: warn(console, message))
            try:
                recorder = _Recorder(run, images, tracker.result(), courier, console, started)
            except BaseException:
                training.stop()
                raise
            try:
                with recorder.shows.display:
                    training.follow(recorder.take)
                if not run.model_file.exists():
                    raise WorkFailed(f"training ended, and {run.model_file} is not there; --resume writes it again")
                return recorder.close("FINISHED")
            except KeyboardInterrupt:
                recorder.close("KILLED")
                raise
            except BaseException:
                recorder.close("FAILED")
                raise


@contextmanager
def _keeps_config(run: Run) -> Iterator[None]:
    """A run that is resumed with what turns out not to fit its checkpoints keeps the configuration that does."""
    before = run.config_file.read_bytes() if run.config_file.exists() else None
    try:
        yield
    except InputError:
        if before is not None:
            write_atomically(run.config_file, lambda file: file.write(before))
        raise


def _open_tracker(run: Run, images: "Images", courier: Courier) -> Tracker:
    """Make the run's folder, and its run in MLflow."""
    run.write_config()
    tracker = track_run(run.config, run.output, courier=courier)
    tracker.open()
    tracker.log_data(run.config, images)
    tracker.log_files([(run.config_file, None)])
    return tracker


class _Shows(Listener):
    """In the terminal: the table of epochs, what is trained on what, warnings."""

    def __init__(self, run: Run, console: Console):
        self.console = console
        self.display = RunDisplay(console, run.config.optim.epochs)

    def on(self, event: Event) -> None:
        if isinstance(event, Started):
            self.display.start(event.history)
            done = f", going on after epoch {event.history[-1]['epoch']:.0f}" if event.history else ""
            self.console.print(
                f"training on {event.device}, {event.workers} worker(s); "
                f"encoder {event.encoder / 1e6:.2f} M parameters, {event.steps} steps an epoch{done}",
                highlight=False,
                soft_wrap=True,
            )
        elif isinstance(event, Stepped):
            self.display.step(event.epoch, event.step, event.steps, event.images_per_second)
        elif isinstance(event, EpochEnded):
            self.display.epoch(event.record)
        elif isinstance(event, Warned):
            warn(self.console, event.message)


class _WritesDown(Listener):
    """In the run's folder: figures as they come, and a summary at the end."""

    def __init__(self, run: Run, started: float):
        self.run, self.started = run, started
        self.history = History(run.output)
        self.about: dict[str, Any] = {}
        self.startup_seconds: float | None = None

    def on(self, event: Event) -> None:
        if isinstance(event, Started):
            self.about = {key: value for key, value in asdict(event).items() if key != "history"}
            self.history.begin(event.history)
        elif isinstance(event, Stepped) and self.startup_seconds is None:
            self.startup_seconds = event.time - self.started
        elif isinstance(event, EpochEnded):
            self.history.add(event.record)

    def summarise(self, status: str, tracker: Tracker) -> dict[str, Any]:
        """Write the summary; what is in it."""
        history = self.history.records
        trained = [record for record in history if "loss" in record]
        summary = {
            "name": self.run.config.name,
            "status": status,
            "weights": self.run.config.backbone.weights,
            "epochs": int(history[-1]["epoch"]) if history else 0,
            "seconds": time.time() - self.started,
            "startup_seconds": self.startup_seconds,
            "images_per_second": max((record["images_per_second"] for record in trained), default=None),
            "data_wait": trained[-1]["data_wait"] if trained else None,
            "broken_images": int(history[-1]["broken_images"]) if history else 0,
            "before": history[0] if history else {},
            "after": history[-1] if trained else {},
            **self.about,
            "versions": versions(),
            "git_revision": git_revision(),
            "mlflow": {"uri": tracker.uri, "run_id": tracker.run_id},
        }
        text = json.dumps(summary, indent=2)
        write_atomically(self.run.output / "summary.json", lambda file: file.write(text.encode()))
        return summary


class _Logs(Listener):
    """In MLflow: figures, and what it was trained on."""

    def __init__(self, tracker: Tracker):
        self.tracker = tracker

    def on(self, event: Event) -> None:
        if isinstance(event, Started):
            self.tracker.log(*event.history)
            self.tracker.tag("device", event.device)
        elif isinstance(event, EpochEnded):
            self.tracker.log(event.record)


class _Draws(Listener):
    """Pictures, in a thread of its own, which nobody waits for before the end. matplotlib takes one thread only."""

    def __init__(self, run: Run, images: "Images", tracker: Tracker, console: Console):
        self.run, self.images, self.tracker, self.console = run, images, tracker, console
        self._thread, self._over = ThreadPoolExecutor(1), False

    def on(self, event: Event) -> None:
        if isinstance(event, EpochEnded):
            self._thread.submit(self._draw_images, int(event.record["epoch"]))

    def _draw_images(self, epoch: int) -> None:
        """The picture of images that this epoch asks for."""
        config = self.run.config
        if config.masked is not None:
            from ssl_core.pictures.masks import draw_masks as draw

            name, every = "masks", config.masked.picture_every
        elif config.positives.searches:
            from ssl_core.pictures.neighbors import draw_neighbors as draw

            name, every = "neighbors", config.positives.picture_every
        else:
            return
        if not epoch or (epoch % every and epoch != config.optim.epochs):
            return
        target = self.run.plots / f"{name}_{epoch:04d}.png"
        try:
            draw(config, self.run.output, self.images.train, target, epoch)
        except (InputError, FileNotFoundError):
            return  # training is epochs ahead, and has dropped what this picture needs
        except Exception as error:  # the run goes on: its figures are in files
            warn(self.console, f"pictures: {type(error).__name__}: {error}")
            return
        self.tracker.log_files([(target, "plots")])

    def finish(self, records: Sequence[Record], plots: bool) -> list[Path]:
        """Wait for what is being drawn, and draw the pictures of the whole run."""
        from ssl_core.pictures.run import draw_plots

        if self._over:
            return []
        self._over = True
        try:
            return self._thread.submit(draw_plots, records, self.run.plots).result() if plots else []
        except Exception as error:  # the run has its weights and figures
            warn(self.console, f"pictures: {type(error).__name__}: {error}")
            return []
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)


class _Recorder:
    """Everybody who hears of a run, and its end."""

    def __init__(
        self, run: Run, images: "Images", tracker: Tracker, courier: Courier, console: Console, started: float
    ):
        self.run, self.tracker, self.courier = run, tracker, courier
        self.shows, self.written = _Shows(run, console), _WritesDown(run, started)
        self.draws = _Draws(run, images, tracker, console)
        self.listeners = [self.written, self.shows, _Logs(tracker), self.draws]

    def take(self, events: list[Event]) -> None:
        for event in events:
            tell(self.listeners, event)

    def close(self, status: str) -> dict[str, Any]:
        """Write the summary and the pictures, and end the MLflow run."""
        # A stop should be quick; what is resumed draws them at its end.
        plots = self.draws.finish(self.written.history.records, plots=status != "KILLED")
        summary = self.written.summarise(status, self.tracker)
        files: list[tuple[Path, str | None]] = [(self.run.output / "summary.json", None)]
        files += [(path, "plots") for path in plots]
        if status == "FINISHED":
            files.append((self.run.model_file, None))
        self.tracker.log_files(files)
        self.tracker.finish(status)
        self.courier.close(self.run.output, stopped=status == "KILLED")
        return summary


def show_summary(summary: dict[str, Any], output: Path, console: Console) -> None:
    """The end of a run: what became of every layer, where things lie, what to do next."""
    if summary["after"]:
        console.print()
        start = "the weights given" if summary.get("weights") else "random initialisation"
        console.print(layer_table(summary["before"], summary["after"], start))
    before, after = summary["before"], summary["after"]
    if "knn/last" in after:
        console.print(
            f"k-NN accuracy: last layer {before['knn/last']:.1%} → {after['knn/last']:.1%}, "
            f"best layer {before['knn/best']:.1%} → {after['knn/best']:.1%}"
        )
    if summary["broken_images"]:
        console.print(f"{summary['broken_images']} images could not be decoded")
    took = f"{duration(summary['seconds'])} in all, {duration(summary['startup_seconds'] or 0)} of it to the first step"
    console.print(f"{took}, {summary['images_per_second'] or 0:.0f} images/s", highlight=False)
    for what, path in (("weights", "model.safetensors"), ("figures", "metrics.jsonl"), ("pictures", "plots")):
        say(console, "{what} {path}", what=f"{what:<9}", path=output / path)
    folder = shlex.quote(str(output))
    say(console, "go on: [bold]strata evaluate {folder}[/bold], [bold]strata report {folder}[/bold]", folder=folder)
    console.print("look at it: [bold]strata ui[/bold]")


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM stops a run as Ctrl-C does; the second of either ends this process where it stands."""
    from orchestrator.cluster.connect import end_at_once

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals: list[int] = []

    def stop(number: int, _: object) -> None:
        if signals:
            end_at_once()
        signals.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
