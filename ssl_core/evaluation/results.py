"""What was measured of a trained encoder, in a file: kept as soon as it is known, and not measured again."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ssl_core.data.sources.base import Images, Source
from ssl_core.data.views import CROP_SHARE, IMAGENET_MEAN, IMAGENET_STD
from ssl_core.errors import InputError
from ssl_core.evaluation.base import named
from ssl_core.files import write_atomically
from ssl_core.schema.evaluation import EvaluatorConfig
from ssl_core.schema.run import RunConfig

FILE = "results.json"
NO_MATTER = ("every", "name")  # keys of an evaluator that change nothing of what it finds


@dataclass
class Found:
    """What one evaluator has found so far.

    Attributes:
        config: its section.
        layers: the metrics of each layer (from 0) that was measured.
        whole: those of the network as a whole.
        seconds: what it took.
        finished: nothing is left to measure.
        pictures: their files, below the folder of results.
    """

    config: EvaluatorConfig
    layers: dict[int, dict[str, float]] = field(default_factory=dict)
    whole: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    finished: bool = False
    pictures: list[str] = field(default_factory=list)

    def metrics(self, depth: int) -> dict[str, float]:
        """All of it, under the names that metrics are logged by."""
        return named(self.config, self.layers, self.whole, depth)


class Results:
    """The results of one encoder on one set of images, in `folder`/results.json.

    Args:
        folder: theirs; those of an earlier evaluation in it are taken over, as far as they are of the same weights,
            images and protocol.
        about: what they are of: name and digest of the weights, how images became its input, which images.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        self.folder, self.about = folder, json.loads(json.dumps(dict(about)))  # as a file has it
        self.file = folder / FILE
        self.read_again()

    def read_again(self) -> None:
        """Take over what other processes have written."""
        known = read(self.file) if self.file.exists() else {}
        self._there: dict[str, dict[str, Any]] = known.get("results", {})
        self._last = known.get("of")
        self._own: dict[str, Found] = {}

    def of(self, config: EvaluatorConfig) -> Found:
        """What is known of what an evaluator would find; the same object each time."""
        key = self.key(config)
        if key not in self._own:
            self._own[key] = _restored(config, self._there.get(key))
        return self._own[key]

    def have(self, evaluators: Iterable[EvaluatorConfig]) -> bool:
        """Whether nothing is left to measure."""
        return all(self.of(config).finished for config in evaluators)

    @property
    def are_the_last(self) -> bool:
        """Whether the file's last evaluation was of the same weights and images."""
        return self._last == self.about

    def key(self, config: EvaluatorConfig) -> str:
        """Stands for all that decides what an evaluator finds."""
        section = {key: value for key, value in config.model_dump(mode="json").items() if key not in NO_MATTER}
        said = json.dumps([section, config.version, self.about], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    def outcomes_file(self, config: EvaluatorConfig) -> Path:
        """Where it stands how each image fared, by layer."""
        return self.folder / "outcomes" / f"{self.key(config)}.npz"

    def keep_outcomes(self, config: EvaluatorConfig, outcomes: Mapping[int, np.ndarray]) -> None:
        """Write down how each image fared, beside the layers that were measured before."""
        if not outcomes:
            return
        file = self.outcomes_file(config)
        file.parent.mkdir(parents=True, exist_ok=True)
        layers = self.outcomes(config) | dict(outcomes)
        arrays: dict[str, Any] = {f"layer_{layer + 1:02d}": array for layer, array in layers.items()}
        write_atomically(file, lambda handle: np.savez_compressed(handle, **arrays))

    def outcomes(self, config: EvaluatorConfig) -> dict[int, np.ndarray]:
        """How each image fared, by layer (from 0); nothing where an evaluator does not say."""
        file = self.outcomes_file(config)
        if not file.exists():
            return {}
        with np.load(file) as found:
            return {int(name.removeprefix("layer_")) - 1: found[name] for name in found.files}

    def save(self) -> None:
        """Write all of it, and what is there of other evaluators."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for key, found in self._own.items():
            if found.layers or found.whole or found.finished:
                self._there[key] = _written(found, self.about)
        text = json.dumps({"of": self.about, "results": self._there}, indent=2)
        write_atomically(self.file, lambda file: file.write(text.encode()))


def read(file: Path) -> dict[str, Any]:
    """What a file of results holds.

    Raises:
        InputError: it is none, or damaged.
    """
    try:
        found = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: no results that can be read ({error}); move it away, to measure anew") from error
    if not isinstance(found, dict) or not isinstance(found.get("results"), dict):
        raise InputError(f"{file}: no results of `strata evaluate`; move it away, to measure anew")
    return found


def figures(known: Mapping[str, Any], digest: str | None = None) -> dict[str, float]:
    """The metrics of layers that the last evaluation in a file of results has, by their names in logs.

    What it holds of other weights or images is left out.

    Args:
        known: what `read` makes of the file.
        digest: only if they are of these weights.
    """
    of = known.get("of", {})
    if digest is not None and of.get("weights") != digest:
        return {}
    return {
        f"{_named(entry)}{name}/layer_{int(layer):02d}": value
        for entry in known["results"].values()
        if entry["of"] == of
        for layer, values in entry["layers"].items()
        for name, value in values.items()
    }


def figures_of(run: Path, digest: str) -> dict[str, float]:
    """The same of all that `strata evaluate` has measured in a run's folder, of these weights.

    Raises:
        InputError: some of it cannot be read.
    """
    files = sorted(run.glob(f"evaluation/*/{FILE}"))
    return {name: value for file in files for name, value in figures(read(file), digest).items()}


def _named(entry: Mapping[str, Any]) -> str:
    own = entry["evaluator"].get("name")
    return f"{own}." if own else ""


def describe(config: RunConfig, images: Images, name: str, digest: str, epoch: int | None) -> dict[str, Any]:
    """What results are of, and under which conditions: whatever changes a figure is in it."""
    return {
        "name": name,
        "weights": digest,
        "epoch": epoch,
        "seed": config.seed,
        "images": {
            "size": config.backbone.image_size,
            "channels": config.backbone.channels,
            "crop_share": CROP_SHARE,
            "interpolation": "bilinear",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
        },
        "train": _described(config.data.train, images.train),
        "val": None if images.val is None else _described(config.data.val, images.val),
    }


def _described(paths: str | list[str] | None, source: Source) -> dict[str, Any]:
    labels = None if source.labels is None else hashlib.sha256(source.labels.tobytes()).hexdigest()[:16]
    return {"from": paths, "images": len(source), "classes": len(source.classes), "labels": labels}


def _restored(config: EvaluatorConfig, known: Mapping[str, Any] | None) -> Found:
    if known is None:
        return Found(config)
    layers = {int(layer) - 1: dict(values) for layer, values in known["layers"].items()}
    return Found(config, layers, dict(known["whole"]), known["seconds"], known["finished"], list(known["pictures"]))


def _written(found: Found, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "of": dict(about),
        "evaluator": found.config.model_dump(mode="json"),
        "version": found.config.version,
        "layers": {str(layer + 1): values for layer, values in sorted(found.layers.items())},
        "whole": found.whole,
        "seconds": round(found.seconds, 2),
        "finished": found.finished,
        "pictures": found.pictures,
    }
