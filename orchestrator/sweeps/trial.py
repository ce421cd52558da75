"""What one trial of a sweep does: a pretraining run in a folder of its own, told to Ray Tune an epoch at a time.

With one worker the loop runs in the trial's own process; with more, the trial drives a Ray Train run.
Its folder is that of any other run, and a trial that starts again goes on from its newest checkpoint.
"""

import gc
import json
import os
import tempfile
import uuid
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.trainable import wrap_function

from orchestrator.cluster.ray_private import finish_trial
from orchestrator.cluster.room import WorkerShare
from orchestrator.errors import WorkFailed
from orchestrator.runs.folder import Run
from orchestrator.runs.supervise import Training, check_method
from orchestrator.runs.worker import start_loader_server
from orchestrator.sweeps.file import Sweep
from orchestrator.sweeps.plan import changeable
from orchestrator.sweeps.trials import Trial, read_trial
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images
from ssl_core.errors import DataError, InputError, TrainingDiverged
from ssl_core.evaluation.collapse import images_measured
from ssl_core.files import append, copy, remove_tree, write_atomically
from ssl_core.schema.data import DataConfig
from ssl_core.schema.run import RunConfig
from ssl_core.training.checkpoints import CheckpointStore
from ssl_core.training.events import CheckpointDue, EpochEnded, Event, Listener, Record, Started, Warned
from ssl_core.training.history import History
from ssl_core.training.loop import Pretraining

TUNE = "tune"  # in a sweep's folder: Ray Tune's own, of one session
NAMES = f"{TUNE}/trials"  # which of our trials Tune means: a file for each of its names
STOP_TIMEOUT = 60  # seconds that a trial gets to end by itself
WARNINGS = "warnings.txt"  # in a trial's folder: what went wrong without ending it
FAILURE = "failure.txt"  # and what did
OUT_OF_MEMORY = "; try optim.accumulate=2, or fewer trials at once (resources)"
ORIGIN = "origin.json"  # in a checkpoint that Tune holds: whose it is
HEARD = "heard.json"  # in a trial's folder: up to which epoch Tune has heard of it, and in which session
MEASURED = "images_measured"  # what Tune is told beside a trial's figures: of how many images they are
TAKEN_OVER = "taken_over.jsonl"  # in a trial's folder: from whom it took over weights, and when


@dataclass(frozen=True)
class Job:
    """What all trials of a sweep have in common.

    Attributes:
        folder: the sweep's.
        share: what a worker gets.
        session: names this session of the sweep, in which Tune knows only what it has heard.
    """

    sweep: Sweep
    folder: Path
    share: WorkerShare
    session: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def takes_over(self) -> bool:
        """Whether trials take over one another's weights."""
        return self.sweep.config.scheduler.name == "pbt"

    def run(self, trial: Trial) -> Run:
        """The run that a trial is."""
        config = {"trial": {"settings": trial.proposed, "repeat": trial.repeat}}
        return Run(self.run_config(config), self.folder_of(trial))

    def folder_of(self, trial: Trial) -> Path:
        return self.folder / "trials" / trial.id

    def name(self, tune_id: str, trial: Trial) -> None:
        """Let the trial's process know which one it is."""
        file = self.folder / NAMES / tune_id
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda f: f.write(trial.id.encode()))

    def named(self, tune_id: str) -> Path:
        """The folder of the trial that Tune calls so."""
        return self.folder / "trials" / (self.folder / NAMES / tune_id).read_text()

    def run_config(self, config: dict[str, Any]) -> RunConfig:
        """Its configuration alone."""
        settings = self.sweep.config.decode(config["trial"]["settings"])
        run_config = self.sweep.run_config(settings, repeat_of(config))
        share = {"cpus_per_worker": self.share.cpus, "gpus_per_worker": self.share.gpus}
        return run_config.model_copy(update={"scaling": run_config.scaling.model_copy(update=share)})


def repeat_of(config: dict[str, Any]) -> int:
    """Which of its setting's seeds a trial has; a searcher that repeats says so under a name of its own."""
    return int(config.get("__trial_index__", config["trial"].get("repeat", 0)))


def make_trainable(job: Job) -> type[tune.Trainable]:
    """What Ray Tune runs for each trial."""

    def trial(config: dict[str, Any]) -> None:
        run_trial(job, config)

    base: Any = wrap_function(trial, name="trial")

    class Trainable(base):
        """Ends only when its function has ended: a Ray Train run whose driver is cut off keeps its workers' CPUs."""

        def cleanup(self) -> None:
            try:
                finish_trial(STOP_TIMEOUT)
            finally:
                super().cleanup()

    return Trainable


def run_trial(job: Job, config: dict[str, Any]) -> None:
    """Train one trial to its end, or until Tune wants no more.

    What goes wrong here would go wrong again: it is written down, and the trial is over. Only where its process is
    lost does Tune start it once more.
    """
    # The next trial in this process waits for the end of this one, too.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", str(STOP_TIMEOUT))
    run = Run(job.run_config(config), job.named(tune.get_context().get_trial_id()))
    teller = _Teller(job, run, config)
    if _replay(run, teller):
        return
    run.write_config()
    (run.output / FAILURE).unlink(missing_ok=True)
    given = tune.get_checkpoint()
    if given is not None:
        with given.as_directory() as folder:
            _take_over(Path(folder), run)
    torch.set_num_threads(job.share.cpus)
    try:
        if run.config.scaling.workers == 1:
            _train_here(run, teller, job.share)
        else:
            _train_on_workers(run, teller, job.share)
    except Exception as error:
        (run.output / FAILURE).write_text(_explain(error))
    gc.collect()  # a process serves many trials


def _replay(run: Run, teller: "_Teller") -> bool:
    """Whether the trial was at its end in an earlier session; then Tune hears of it as it did then."""
    trial = read_trial(run.output)
    whole = trial.epoch == trial.epochs  # its end may not have been written down
    if not (trial.ended or whole):
        return False
    teller.replay(trial.records)
    return True


def _explain(error: Exception) -> str:
    """What a trial failed of, in a line."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    if isinstance(error, (InputError, WorkFailed, DataError, TrainingDiverged)):
        return first
    memory = OUT_OF_MEMORY if isinstance(error, (MemoryError, torch.OutOfMemoryError)) else ""
    return f"{type(error).__name__}: {first}{memory}"


class _Teller(Listener):
    """Writes a trial's figures down and tells Tune of those that its searcher and scheduler want to know."""

    def __init__(self, job: Job, run: Run, config: dict[str, Any]):
        self.job, self.run = job, run
        self.history = History(run.output)
        settings = config["trial"]["settings"]
        self._changing = {
            f"settings/{key}": float(settings[key])
            for key in (changeable(job.sweep) if job.takes_over else [])
            if isinstance(settings[key], (int, float))
        }

    def on(self, event: Event) -> None:
        if isinstance(event, Started):  # from what the checkpoint knows
            self.history.begin(list(event.history))
            self.replay(list(event.history))
        elif isinstance(event, EpochEnded):
            self.complete(event.record)
            self.history.add(event.record)
            self._tell(event.record)
        elif isinstance(event, Warned):
            self.warn(event.message)

    def replay(self, records: list[Record]) -> None:
        """Tell Tune what it has not heard in this session."""
        told = self._told()
        # Of those whose weights others may take over, only the newest are there.
        for record in records[-1:] if self.job.takes_over else records:
            if record["epoch"] > told:
                self._tell(record)

    def complete(self, record: Record) -> None:
        """Add the settings that may change in mid-run."""
        record |= self._changing

    def warn(self, message: str) -> None:
        append(self.run.output / WARNINGS, message)

    def _tell(self, record: Record) -> None:
        if not record["epoch"] or not all(metric in record for metric in self.job.sweep.config.metric):
            return
        epoch = int(record["epoch"])
        # Nothing is decided about a trial at its end.
        config = self.run.config
        measured = images_measured(config, _images(config.data.model_dump_json()))
        told = {**record, "epoch": epoch, "done": epoch == config.optim.epochs, MEASURED: measured}
        # Before Tune hears of it, for it may end this function with its answer.
        heard = {"session": self.job.session, "epoch": epoch}
        write_atomically(self.run.output / HEARD, lambda file: file.write(json.dumps(heard).encode()))
        if self.job.takes_over and CheckpointStore(self.run.output, self.run.config).path(epoch).exists():
            with tempfile.TemporaryDirectory() as name:
                _hand_out(self.run, Path(name), epoch)
                tune.report(told, checkpoint=tune.Checkpoint.from_directory(name))
        else:
            tune.report(told)

    def _told(self) -> int:
        """The last epoch that Tune has heard of in this session."""
        file = self.run.output / HEARD
        heard = json.loads(file.read_text()) if file.exists() else {}
        return heard["epoch"] if heard.get("session") == self.job.session else 0


class _Keeps(Listener):
    """For the loop in this process: keeps checkpoints and passes figures on."""

    def __init__(self, store: CheckpointStore, run: Pretraining, teller: _Teller):
        self.store, self.run, self.teller = store, run, teller

    def on(self, event: Event) -> None:
        if isinstance(event, CheckpointDue):
            self.store.keep_within_epoch(self.run)
        elif isinstance(event, EpochEnded):
            self.teller.complete(event.record)  # before the checkpoint, which holds it
            self.store.keep(self.run)
        self.teller.on(event)


def _train_here(run: Run, teller: _Teller, share: WorkerShare) -> None:
    """The loop in this process; neighbours are searched in it too."""
    config = run.config
    start_loader_server(config, share.cpus)
    store = CheckpointStore(run.output, config)
    device = "cuda" if share.gpus else "cpu"
    training = Pretraining(config, _images(config.data.model_dump_json()), device, fresh=not store.paths())
    store.restore(training, teller.warn)
    training.run(_Keeps(store, training, teller))


def _train_on_workers(run: Run, teller: _Teller, share: WorkerShare) -> None:
    """A Ray Train run of which this process is the driver."""
    images = _images(run.config.data.model_dump_json())
    width = check_method(run.config, images, run.output)
    training = Training(run, share, len(images.train), width, teller.warn, STOP_TIMEOUT)

    def take(events: list[Event]) -> None:
        for event in events:
            teller.on(event)

    training.follow(take)


@lru_cache(maxsize=1)
def _images(data: str) -> Images:
    """The images of a `data` section, as JSON: the next trial in this process most likely has the same."""
    return open_images(DataConfig.model_validate_json(data))


def _hand_out(run: Run, folder: Path, epoch: int) -> None:
    """Put what another trial needs to go on from `epoch` into `folder`."""
    store = CheckpointStore(run.output, run.config)
    checkpoint = store.path(epoch)
    files = [checkpoint, checkpoint.with_suffix(".sha256")]
    files += [path for path in store.neighbors.rglob("*") if path.is_file()]
    for file in files:
        copy(file, folder / str(file.relative_to(run.output)))
    (folder / ORIGIN).write_text(json.dumps({"trial": run.output.name, "epoch": epoch}))


def _take_over(given: Path, run: Run) -> None:
    """Go on from a checkpoint that Tune hands us: another trial's, or our own after a pause."""
    origin = json.loads((given / ORIGIN).read_text())
    if origin["trial"] == run.output.name:
        return
    for name in ("checkpoints", "neighbors"):
        remove_tree(run.output / name)
        for file in (path for path in (given / name).rglob("*") if path.is_file()):
            copy(file, run.output / str(file.relative_to(given)))
    append(run.output / TAKEN_OVER, json.dumps(origin))
