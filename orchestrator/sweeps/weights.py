"""Which trials keep their weights: of those that have ended, only the best."""

from orchestrator.sweeps.book import TrialBook
from orchestrator.sweeps.trials import Trial
from ssl_core.files import remove_tree


class WeightKeeper:
    """Removes the weights of trials that are no longer among the best; each trial's once."""

    def __init__(self, book: TrialBook):
        self.book, self.config = book, book.config
        self._dropped: set[str] = set()

    def tidy(self) -> None:
        """After a trial's end."""
        metric, sign = self.config.metric[0], -1 if self.config.mode[0] == "max" else 1
        found = {trial.id: value for trial in self.book.trials if (value := trial.value(metric)) is not None}

        def worth(trial: Trial) -> tuple[bool, float]:
            return trial.status != "FINISHED", sign * found[trial.id]

        sound = [t for t in self.book.trials if t.status in ("FINISHED", "STOPPED") and t.id in found]
        best = {trial.id for trial in sorted(sound, key=worth)[: self.config.keep_weights]}
        for trial in self.book.trials:
            if trial.ended and trial.id not in best and trial.id not in self._dropped:
                folder = self.book.folder_of(trial)
                for name in ("checkpoints", "neighbors"):
                    remove_tree(folder / name)
                (folder / "model.safetensors").unlink(missing_ok=True)
                self._dropped.add(trial.id)
