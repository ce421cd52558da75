"""What is to be measured of which encoder: words of a command line → a checked plan, or an error before work starts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.runs.display import say, warn
from orchestrator.runs.folder import absolute_paths
from ssl_core.data.sources import open_images
from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.evaluation import suites
from ssl_core.evaluation.base import check_evaluator
from ssl_core.evaluation.metrics import layers_measured
from ssl_core.recipes import Setting
from ssl_core.schema.run import RunConfig
from ssl_core.use.opening import open_subject
from ssl_core.use.subject import Subject

DEFAULT_SUITE = "quick"


@dataclass(frozen=True)
class Wish:
    """What somebody wants measured, as it was typed.

    Attributes:
        words: `KEY=VALUE`.
        suite: a suite's name or file.
        kinds: evaluators by name, in the place of a suite.
        layers: which layers, in the place of what each evaluator's section says: all, last, or numbers.
        checkpoint: of a run, the epoch.
        option: that `layers` was given by, for errors.
    """

    words: Sequence[str] = ()
    suite: str | None = None
    kinds: Sequence[str] = ()
    layers: str | None = None
    checkpoint: int | None = None
    option: str = "--layers"

    @property
    def name(self) -> str:
        """What the results are called."""
        if self.kinds:
            return "+".join(self.kinds)[:100]
        return Path(self.suite or DEFAULT_SUITE).stem

    def entries(self) -> Setting:
        """The `evaluation` section that it stands for.

        Raises:
            InputError: the suite cannot be read; a suite and evaluators by name at once.
        """
        if self.kinds and self.suite:
            raise InputError("--suite, --with: one of them")
        if self.kinds:
            where, entries = "--with", [{"kind": kind} for kind in self.kinds]
        else:
            file, read = suites.read(self.suite or DEFAULT_SUITE)
            where, entries = str(file), read
        return Setting("evaluation", [self._of_layers(entry) for entry in entries], where=where)

    def _of_layers(self, entry: Any) -> Any:
        return entry if self.layers is None or not isinstance(entry, dict) else {**entry, "layers": self._chosen()}

    def _chosen(self) -> Any:
        """The layers as an evaluator's section has them.

        Raises:
            InputError: they are none.
        """
        assert self.layers is not None
        if self.layers in ("all", "last") or self.layers.startswith("every"):
            return self.layers
        numbers = self.layers.split(",")
        if not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
            raise InputError(f"{self.option}: expected all, last, every:2, or numbers: 4,8 (given: {self.layers})")
        return [int(number) for number in numbers]

    def check_layers(self, depth: int) -> None:
        """Whether a network of so many layers has those that were chosen.

        Raises:
            InputError: it has not.
        """
        chosen = self._chosen() if self.layers is not None else None
        missing = [layer for layer in chosen if layer > depth] if isinstance(chosen, list) else []
        if missing:
            raise InputError(f"{self.option}: the encoder has layers 1 to {depth} (given: {self.layers})")


@dataclass(frozen=True)
class Plan:
    """A trained encoder, and what of it is measured on which images.

    Attributes:
        subject: the encoder; its configuration's `evaluation` is what can be measured.
        what: how it was named.
        remarks: what was left out, and why.
    """

    subject: Subject
    what: str
    wish: Wish
    images: Images
    remarks: tuple[str, ...]

    @property
    def config(self) -> RunConfig:
        return self.subject.config

    @property
    def described(self) -> str:
        """What is measured of what, in a line."""
        backbone, images = self.config.backbone, self.images
        asked = ", ".join(evaluator.named(evaluator.kind) for evaluator in self.config.evaluation)
        val = "" if images.val is None else f", val {len(images.val)}"
        return f"{backbone.name} at {backbone.image_size} px on {len(images.train)} images{val}: {asked}"

    def announce(self, console: Console) -> None:
        """Say what is going to be done, and what may not be meant."""
        say(console, "[bold]{name}[/bold]: {what}", name=self.subject.name, what=self.described)
        for remark in self.remarks:
            warn(console, remark)


def make_plan(what: str, wish: Wish) -> Plan:
    """The plan that a wish comes to for an encoder.

    Raises:
        InputError: something in it cannot work. What a suite names, and these images do not allow, is left out.
    """
    subject = open_subject(what, [wish.entries(), *wish.words], wish.checkpoint)
    wish.check_layers(subject.encoder.depth)
    config = absolute_paths(subject.config)
    images = open_images(config.data)
    remarks = [*subject.remarks, *images.remarks]
    kept = []
    for evaluator in config.evaluation:
        layers_measured(evaluator, subject.encoder.depth)
        try:
            check_evaluator(evaluator, config, images)
        except InputError as error:
            if wish.kinds:
                raise
            remarks.append(f"{evaluator.named(evaluator.kind)} is left out: {error}")
        else:
            kept.append(evaluator)
    if not kept:
        raise InputError("nothing of it can be measured:\n" + "\n".join(remarks))
    config = config.model_copy(update={"evaluation": kept})
    return Plan(replace(subject, config=config), what, wish, images, tuple(remarks))
