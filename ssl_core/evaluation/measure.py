"""Evaluators on a trained encoder, one after the other: what is known is left out, the rest kept as it comes."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ssl_core import distributed
from ssl_core.evaluation.base import Contexts, Evaluator, own_layers
from ssl_core.evaluation.features import Context
from ssl_core.evaluation.results import Found, Results
from ssl_core.schema.evaluation import EvaluatorConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Told = Callable[[str, int, int], None]


def measure(context: Context, results: Results, tell: Told) -> list[Found]:
    """What each evaluator of the context's configuration finds, in their order. All ranks do it together.

    Args:
        results: where it is kept, by rank 0; in one process after every layer.
        tell: hears which evaluator is at work, and how far it is: (what, done, of how many).
    """
    contexts = Contexts(context)
    found = []
    for config in context.config.evaluation:
        known = results.of(config)
        found.append(known)
        if not known.finished:
            _measure_one(config, contexts.of(config), known, results, tell)
    return found


def _measure_one(config: EvaluatorConfig, context: Context, found: Found, results: Results, tell: Told) -> None:
    name = config.named(config.kind)
    layers = [layer for layer in own_layers(config, context) if layer not in found.layers]
    tell(name, 0, max(len(layers), 1))
    started = time.perf_counter() - found.seconds
    evaluator: Evaluator = config.load()(config, context)
    own: dict[int, dict[str, float]] = {}
    for done, layer in enumerate(layers, start=1):
        own[layer] = dict(evaluator.measure(layer))
        tell(name, done, len(layers))
        if distributed.world_size() == 1 and done < len(layers):
            found.layers[layer], found.seconds = own[layer], time.perf_counter() - started
            results.keep_outcomes(config, evaluator.outcomes)
            results.save()
    for measured, outcomes in distributed.gather_objects((own, evaluator.outcomes)):
        found.layers |= measured
        if distributed.rank() == 0:
            results.keep_outcomes(config, outcomes)
    if distributed.rank() == 0:
        found.whole = dict(evaluator.whole())
        found.pictures = [_save(figure, f"{name}_{title}", results) for title, figure in evaluator.pictures().items()]
        found.seconds, found.finished = time.perf_counter() - started, True
        results.save()
    distributed.barrier()


def _save(figure: "Figure", name: str, results: Results) -> str:
    from ssl_core.pictures.run import save_figure

    save_figure(figure, results.folder / "plots" / f"{name}.png")
    return f"plots/{name}.png"
