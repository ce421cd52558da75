"""From a configuration to a finished run: checks, Ray Train, what is shown, what is left behind."""

import json
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator.display import RunDisplay, duration, layer_table
from orchestrator.tracking import RUNS, Tracker
from ssl_core import recipes
from ssl_core.config import RunConfig
from ssl_core.errors import DataError, InputError, TrainingDiverged
from ssl_core.files import write_atomically

if TYPE_CHECKING:
    from orchestrator.cluster import WorkerShare
    from ssl_core.data.sources import Images

POLL = 0.2  # seconds between looks into the mailbox
STOP_TIMEOUT = 5.0  # seconds that workers get to end by themselves
MAX_RESTARTS = 3  # times that a run goes on by itself after it lost its neighbour index
PACKAGES = ("strata-ssl", "torch", "torchvision", "timm", "ray", "mlflow", "pyarrow", "numpy", "pillow")


class WorkFailed(RuntimeError):
    """The run started and did not end well; what was done so far is kept."""


@dataclass(frozen=True)
class Run:
    """A run's folder and what it is about."""

    config: RunConfig
    output: Path


def new_run(config: RunConfig, output: Path | None) -> Run:
    """A run in a folder of its own: `output`, or strata-runs/NAME-TIME."""
    if output is None:
        output = RUNS / f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    output = output.absolute()
    if output.exists() and any(output.iterdir()):
        raise InputError(f"--output: {output} is not empty; choose another, or go on with --resume {output}")
    return Run(_absolute_paths(config), output)


def resumed_run(output: Path, overrides: list[str]) -> Run:
    """The run whose folder is `output`, to go on from its newest checkpoint."""
    return run_at(output, "--resume", overrides)


def run_at(output: Path, given_as: str, overrides: Sequence[str] = ()) -> Run:
    """The run whose folder is `output`; `given_as` names the argument in errors."""
    file = output.absolute() / "config.yaml"
    if not file.is_file():
        raise InputError(f"{given_as}: {output} is no run's folder (it has no config.yaml)")
    return Run(_absolute_paths(recipes.load(file, overrides)), output.absolute())


def pretrain(run: Run, console: Console, started: float) -> dict[str, Any]:
    """Train `run` to its end; returns the summary, which also lies in its folder.

    Args:
        started: when the command began (time.time()), for the start-up time.

    Raises:
        InputError: something in the configuration cannot work; no training was started.
        WorkFailed: training failed; checkpoints and figures up to then are kept.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; `--resume` goes on.
    """
    from orchestrator import cluster
    from ssl_core.data.sources import open_images
    from ssl_core.neighbors.positives import remarks

    images = open_images(run.config.data)
    for remark in remarks(run.config):
        _warn(console, remark)
    # Starting takes many seconds on many processes. What this one imports and opens, it does meanwhile.
    with _interruptible(), ThreadPoolExecutor(1) as pool:
        checked = pool.submit(_check_method, run.config, images)
        with cluster.connected():
            share = cluster.worker_share(run.config.scaling, run.config.positives.searches)
            index_dim = checked.result()
            tracker = pool.submit(_open_tracker, run, console)
            training = _Training(run, share, len(images.train), index_dim)
            try:
                recorder = _Recorder(run, images, tracker.result(), console, started)
            except BaseException:
                training.stop()
                raise
            try:
                with recorder.display:
                    training.follow(recorder.take, recorder.warn)
            except KeyboardInterrupt:
                recorder.close("KILLED")
                raise
            except BaseException:
                recorder.close("FAILED")
                raise
        return recorder.close("FINISHED")


def _check_method(config: RunConfig, images: "Images") -> int:
    """What needs torch to be known; the width of the features that stand for an image."""
    import torch

    from ssl_core import methods
    from ssl_core.loop import check_images

    check_images(config, images)
    with torch.device("meta"):  # shapes only
        return methods.build(config).index_dim


def _warn(console: Console, message: str) -> None:
    console.print(f"[yellow]warning:[/yellow] {message}", highlight=False, soft_wrap=True)


def _open_tracker(run: Run, console: Console) -> Tracker:
    """Make the run's folder, and its run in MLflow."""
    run.output.mkdir(parents=True, exist_ok=True)
    config_file = run.output / "config.yaml"
    write_atomically(config_file, lambda file: file.write(recipes.dump(run.config).encode()))
    tags = {"git_revision": git_revision(), **{f"version.{name}": v for name, v in versions().items()}}
    tracker = Tracker(run.config, run.output, tags, console.print)
    tracker.log_files([(config_file, None)])
    return tracker


class _Training:
    """Ray Train in a thread of its own, so that this one can take the workers' messages; and the index actors."""

    def __init__(self, run: Run, share: "WorkerShare", num_images: int, index_dim: int):
        self.run, self.share, self.num_images, self.index_dim = run, share, num_images, index_dim
        self._restarts = 0
        self._start()

    def _start(self) -> None:
        from ray.train import RunConfig as TrainRunConfig
        from ray.train import ScalingConfig
        from ray.train.torch import TorchTrainer

        from orchestrator.index_actor import start_shards
        from orchestrator.worker import Mailbox, train_worker

        run, config = self.run, self.run.config
        self.error: BaseException | None = None
        self.mailbox = Mailbox.remote()
        self.shards = []
        if config.positives.searches:
            folder = run.output / "neighbors"
            self.shards = start_shards(config.positives, config.scaling, self.num_images, self.index_dim, folder)
        resources = {"CPU": self.share.cpus} | ({"GPU": self.share.gpus} if self.share.gpus else {})
        self._trainer = TorchTrainer(
            train_worker,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "output": str(run.output),
                "mailbox": self.mailbox,
                "shards": self.shards,
                "threads": self.share.cpus,
            },
            scaling_config=ScalingConfig(
                num_workers=config.scaling.workers, use_gpu=self.share.gpus > 0, resources_per_worker=resources
            ),
            run_config=TrainRunConfig(name="ray-train", storage_path=str(run.output)),
        )
        self._thread = threading.Thread(target=self._fit, daemon=True)
        self._thread.start()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self.error = error

    def follow(self, take: Callable[[list[tuple[str, Any]]], None], warn: Callable[[str], None]) -> None:
        """Hand all messages to `take` until training has ended; start again from the checkpoint if the index is lost.

        Raises:
            InputError, WorkFailed: it ended badly.
        """
        from orchestrator.index_actor import IndexLost

        while True:
            self._follow_once(take)
            if self.error is None:
                return
            error = _cause(self.error)
            if not isinstance(error, IndexLost) or self._restarts == MAX_RESTARTS:
                raise _explain(self.error, self.run)
            warn(f"{error}; going on from the newest checkpoint with a new one")
            self._restarts += 1
            self._start()

    def _follow_once(self, take: Callable[[list[tuple[str, Any]]], None]) -> None:
        import ray

        try:
            while self._thread.is_alive():
                self._thread.join(POLL)
                take(ray.get(self.mailbox.take.remote()))
            take(ray.get(self.mailbox.take.remote()))
        except BaseException:
            self.stop()
            raise
        for shard in self.shards:
            ray.kill(shard)

    def stop(self) -> None:
        """End the workers: ask first, and leave them nobody to report to."""
        import ray

        self.mailbox.stop.remote()
        self._thread.join(STOP_TIMEOUT)
        for actor in (self.mailbox, *self.shards):
            ray.kill(actor)


def _cause(error: BaseException) -> BaseException:
    """What went wrong in the workers, without Ray's wrapping: what one of them said, rather than how another fell."""
    from orchestrator.index_actor import IndexLost

    failures = list(getattr(error, "worker_failures", {}).values()) or [error]
    causes = [getattr(failure, "cause", None) or failure for failure in failures]
    known = (InputError, DataError, TrainingDiverged, IndexLost)
    return next((cause for cause in causes if isinstance(cause, known)), causes[0])


def _explain(error: BaseException, run: Run) -> BaseException:
    """How a run that `error` ended is reported."""
    cause = _cause(error)
    if isinstance(cause, InputError):
        return cause
    from orchestrator.checkpoints import CheckpointStore

    checkpoints = CheckpointStore(run.output, run.config).paths()
    last = f"the last good checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint yet"
    failed = WorkFailed(f"{cause}\n{last}")
    failed.__cause__ = cause
    return failed


class _Recorder:
    """Takes the workers' messages: shows them, writes them down, hands them to MLflow."""

    def __init__(self, run: Run, images: "Images", tracker: Tracker, console: Console, started: float):
        self.run, self.images, self.tracker, self.console, self.started = run, images, tracker, console, started
        self.history: list[dict[str, float]] = []
        self.about: dict[str, Any] = {}
        self.startup_seconds: float | None = None
        columns = ["epoch", "loss", "loss/last", "knn/last", "knn/best", "rankme/last", "images_per_second"]
        if run.config.distill is not None:
            columns += ["loss/hidden", "loss/predictor", "alpha"]
        if run.config.positives.kind != "augment":
            columns += ["positives/bootstrap_ratio", "positives/same_class"]
        self.display = RunDisplay(console, run.config.optim.epochs, columns)
        self._metrics = run.output / "metrics.jsonl"

    def take(self, messages: list[tuple[str, Any]]) -> None:
        for kind, content in messages:
            getattr(self, f"_on_{kind}")(content)

    def _on_start(self, content: dict[str, Any]) -> None:
        self.history = content.pop("history")
        self.about = content
        # The checkpoint knows what was done; epochs after it will be done again.
        lines = "".join(json.dumps(record) + "\n" for record in self.history)
        write_atomically(self._metrics, lambda file: file.write(lines.encode()))
        for record in self.history:
            self.tracker.log(record)
        self.tracker.tag("device", content["device"])
        self.display.start(self.history)
        done = f", going on after epoch {self.history[-1]['epoch']:.0f}" if self.history else ""
        self.console.print(
            f"training on {content['device']}, {self.run.config.scaling.workers} worker(s); "
            f"encoder {content['encoder'] / 1e6:.2f} M parameters, {content['steps']} steps an epoch{done}",
            highlight=False,
            soft_wrap=True,
        )

    def _on_step(self, content: dict[str, Any]) -> None:
        if self.startup_seconds is None:
            self.startup_seconds = content["time"] - self.started
        self.display.step(content["epoch"], content["step"], content["steps"], content["images_per_second"])

    def _on_epoch(self, record: dict[str, float]) -> None:
        self.history.append(record)
        with open(self._metrics, "a") as file:
            file.write(json.dumps(record) + "\n")
        self.display.epoch(record)
        self.tracker.log(record)
        self._draw_neighbors(int(record["epoch"]))

    def _draw_neighbors(self, epoch: int) -> None:
        config = self.run.config
        if not epoch or not config.positives.searches:
            return
        if epoch % config.positives.picture_every and epoch != config.optim.epochs:
            return
        from orchestrator.neighbors import draw_neighbors

        target = self.run.output / "plots" / f"neighbors_{epoch:04d}.png"
        try:
            draw_neighbors(config, self.run.output, self.images.train, target, epoch)
        except InputError:
            return  # training is epochs ahead, and has dropped what this picture needs
        self.tracker.log_files([(target, "plots")])

    def _on_warning(self, message: str) -> None:
        self.warn(message)

    def warn(self, message: str) -> None:
        _warn(self.console, message)

    def close(self, status: str) -> dict[str, Any]:
        """Write the summary and the pictures, and end the MLflow run."""
        from orchestrator.report import draw_plots

        summary = self._summary(status)
        write_atomically(
            self.run.output / "summary.json", lambda file: file.write(json.dumps(summary, indent=2).encode())
        )
        files: list[tuple[Path, str | None]] = [(self.run.output / "summary.json", None)]
        if status != "KILLED":  # a stop should be quick; what is resumed draws them at its end
            files += [(path, "plots") for path in draw_plots(self.history, self.run.output / "plots")]
        if status == "FINISHED":
            files.append((self.run.output / "model.safetensors", None))
        self.tracker.log_files(files)
        self.tracker.finish(status)
        return summary

    def _summary(self, status: str) -> dict[str, Any]:
        trained = [record for record in self.history if "loss" in record]
        return {
            "name": self.run.config.name,
            "status": status,
            "epochs": int(self.history[-1]["epoch"]) if self.history else 0,
            "seconds": time.time() - self.started,
            "startup_seconds": self.startup_seconds,
            "images_per_second": max((record["images_per_second"] for record in trained), default=None),
            "data_wait": trained[-1]["data_wait"] if trained else None,
            "broken_images": int(self.history[-1]["broken_images"]) if self.history else 0,
            "before": self.history[0] if self.history else {},
            "after": self.history[-1] if trained else {},
            **self.about,
            "workers": self.run.config.scaling.workers,
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


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_revision() -> str:
    """The revision of the working directory, with `+` if files were changed; empty outside a repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _absolute_paths(config: RunConfig) -> RunConfig:
    """Workers and later readers of `config.yaml` may run elsewhere: `data` paths become absolute."""

    def absolute(path: str) -> str:
        return path if path.startswith("bundled:") else str(Path(path).expanduser().absolute())

    def each(paths: str | list[str] | None) -> str | list[str] | None:
        if paths is None:
            return None
        return absolute(paths) if isinstance(paths, str) else [absolute(path) for path in paths]

    data = config.data.model_copy(update={"train": each(config.data.train), "val": each(config.data.val)})
    return config.model_copy(update={"data": data})


class _interruptible:
    """SIGTERM stops a run as Ctrl-C does."""

    def __enter__(self) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        if self._main:
            for number, handler in self._before.items():
                signal.signal(number, handler)
