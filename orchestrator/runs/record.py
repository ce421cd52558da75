"""One pretraining run from its configuration to its end: checks, what is shown, what is left behind."""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator.about import git_revision, versions
from orchestrator.runs.display import RunDisplay, duration, layer_table, warn
from orchestrator.runs.folder import Run
from orchestrator.runs.supervise import Training, check_method
from orchestrator.tracking.mlflow import Courier, Tracker, track_run
from ssl_core.errors import InputError
from ssl_core.files import write_atomically
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
    from ssl_core.positives.base import remarks

    images = open_images(run.config.data)
    for remark in remarks(run.config):
        warn(console, remark)
    # Starting takes many seconds on many processes. What this one imports and opens, it does meanwhile.
    with interruptible(), ThreadPoolExecutor(1) as pool:
        checked = pool.submit(check_method, run.config, images)
        with connected():
            share = worker_share(run.config.scaling, run.config.positives.searches)
            index_dim = checked.result()
            check_seen(run.output, run.config.data.paths)
            courier = Courier(lambda message: warn(console, message))
            tracker = pool.submit(_open_tracker, run, courier)
            training = Training(run, share, len(images.train), index_dim, lambda message: warn(console, message))
            try:
                recorder = _Recorder(run, images, tracker.result(), courier, console, started)
            except BaseException:
                training.stop()
                raise
            try:
                with recorder.display:
                    training.follow(recorder.take)
            except KeyboardInterrupt:
                recorder.close("KILLED")
                raise
            except BaseException:
                recorder.close("FAILED")
                raise
        return recorder.close("FINISHED")


def _open_tracker(run: Run, courier: Courier) -> Tracker:
    """Make the run's folder, and its run in MLflow."""
    run.write_config()
    tracker = track_run(run, courier=courier)
    tracker.open()
    tracker.log_files([(run.config_file, None)])
    return tracker


class _Recorder:
    """Takes the workers' messages: shows them, writes them down, hands them to MLflow."""

    def __init__(
        self, run: Run, images: "Images", tracker: Tracker, courier: Courier, console: Console, started: float
    ):
        self.run, self.images, self.console, self.started = run, images, console, started
        self.tracker, self.courier = tracker, courier
        self.history = History(run.output)
        self.about: dict[str, Any] = {}
        self.startup_seconds: float | None = None
        columns = [
            "epoch",
            "loss",
            "loss/last",
            "knn/last",
            "knn/best",
            "linear/last",
            "rankme/last",
            "images_per_second",
        ]
        if run.config.distill is not None:
            columns += ["loss/hidden", "loss/predictor", "alpha"]
        if run.config.positives.kind != "augment":
            columns += ["positives/bootstrap_ratio", "positives/same_class"]
        self.display = RunDisplay(console, run.config.optim.epochs, columns)

    def take(self, messages: list[tuple[str, Any]]) -> None:
        for kind, content in messages:
            getattr(self, f"_on_{kind}")(content)

    def _on_start(self, content: dict[str, Any]) -> None:
        records = content.pop("history")
        self.about = content
        self.history.begin(records)
        self.tracker.log(*records)
        self.tracker.tag("device", content["device"])
        self.display.start(records)
        done = f", going on after epoch {records[-1]['epoch']:.0f}" if records else ""
        self.console.print(
            f"training on {content['device']}, {content['workers']} worker(s); "
            f"encoder {content['encoder'] / 1e6:.2f} M parameters, {content['steps']} steps an epoch{done}",
            highlight=False,
            soft_wrap=True,
        )

    def _on_step(self, content: dict[str, Any]) -> None:
        if self.startup_seconds is None:
            self.startup_seconds = content["time"] - self.started
        self.display.step(content["epoch"], content["step"], content["steps"], content["images_per_second"])

    def _on_epoch(self, record: dict[str, float]) -> None:
        self.history.add(record)
        self.display.epoch(record)
        self.tracker.log(record)
        self._draw(int(record["epoch"]))

    def _draw(self, epoch: int) -> None:
        """The picture of images that this epoch asks for."""
        config = self.run.config
        if not config.hides and not config.positives.searches:
            return
        name, section = ("masks", config.hides[0]) if config.hides else ("neighbors", config.positives)
        if not epoch or (epoch % section.picture_every and epoch != config.optim.epochs):
            return
        if config.hides:
            from ssl_core.pictures.masks import draw_masks as draw
        else:
            from ssl_core.pictures.neighbors import draw_neighbors as draw

        target = self.run.plots / f"{name}_{epoch:04d}.png"
        try:
            draw(config, self.run.output, self.images.train, target, epoch)
        except (InputError, FileNotFoundError):
            return  # training is epochs ahead, and has dropped what this picture needs
        self.tracker.log_files([(target, "plots")])

    def _on_warning(self, message: str) -> None:
        self.warn(message)

    def warn(self, message: str) -> None:
        warn(self.console, message)

    def close(self, status: str) -> dict[str, Any]:
        """Write the summary and the pictures, and end the MLflow run."""
        from ssl_core.pictures.run import draw_plots

        summary = self._summary(status)
        write_atomically(
            self.run.output / "summary.json", lambda file: file.write(json.dumps(summary, indent=2).encode())
        )
        files: list[tuple[Path, str | None]] = [(self.run.output / "summary.json", None)]
        if status != "KILLED":  # a stop should be quick; what is resumed draws them at its end
            files += [(path, "plots") for path in draw_plots(self.history.records, self.run.plots)]
        if status == "FINISHED":
            files.append((self.run.model_file, None))
        self.tracker.log_files(files)
        self.tracker.finish(status)
        self.courier.close(self.run.output, stopped=status == "KILLED")
        return summary

    def _summary(self, status: str) -> dict[str, Any]:
        history = self.history.records
        trained = [record for record in history if "loss" in record]
        return {
            "name": self.run.config.name,
            "status": status,
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
            "mlflow": {"uri": self.tracker.uri, "run_id": self.tracker.run_id},
        }


def show_summary(summary: dict[str, Any], output: Path, console: Console) -> None:
    """The end of a run: what became of every layer, where things lie, what to do next."""
    if summary["after"]:
        console.print()
        console.print(layer_table(summary["before"], summary["after"]))
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
        console.print(f"{what:<9} {output / path}", highlight=False, soft_wrap=True)
    console.print("look at it: [bold]strata ui[/bold]")


class interruptible:
    """SIGTERM stops a run as Ctrl-C does; the second of either ends this process where it stands."""

    def __enter__(self) -> None:
        from orchestrator.cluster.connect import end_at_once

        stopped = False

        def stop(*_: object) -> None:
            nonlocal stopped
            if stopped:
                end_at_once()
            stopped = True
            raise KeyboardInterrupt

        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        if self._main:
            for number, handler in self._before.items():
                signal.signal(number, handler)
