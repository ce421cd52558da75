"""A sweep's answer in sentences: the best settings, how sure that is, which settings matter."""

from orchestrator.sweeps.display import form
from orchestrator.sweeps.findings import Findings
from orchestrator.sweeps.importance import comparable, seed_share
from orchestrator.sweeps.space import describe, short
from orchestrator.sweeps.trials import Score, difference, pareto_front
from ssl_core.evaluation.metrics import is_share


def answer(found: Findings) -> list[str]:
    """A sentence each."""
    if found.best is None:
        return [f"no trial got as far as a first {found.metric}"]
    return [_best(found, found.best), *_sureness(found), *_what_matters(found)]


def form_mean(metric: str, score: Score) -> str:
    """A setting's mean with the half-width of its 95 % interval: `52.0 ± 1.3 % (3 seeds)`."""
    half = score.half_width
    if half is None:
        return form(metric, score.mean)
    seeds = f"({len(score.values)} seeds)"
    if is_share(metric):
        return f"{100 * score.mean:.1f} ± {100 * half:.1f} % {seeds}"
    return f"{score.mean:.4g} ± {half:.2g} {seeds}"


def _best(found: Findings, best: Score) -> str:
    early = "" if best.whole else ", stopped early"
    return f"best: {describe(best.settings)}: {found.metric} {form_mean(found.metric, best)}{early}"


def _sureness(found: Findings) -> list[str]:
    if len(found.config.metric) == 2:
        front = pareto_front(found.scores, found.config.metric, found.config.mode)
        return [f"{len(front)} settings are beaten by none in both {' and '.join(found.config.metric)}"]
    return [_lead(found.metric, found.scores[0], found.scores[1])] if len(found.scores) > 1 else []


def _lead(metric: str, best: Score, second: Score) -> str:
    """By how much the best leads, and whether that is more than noise."""
    lead, half = difference(best, second)
    number = "{:.1f}" if is_share(metric) else "{:.2g}"
    scale, unit = (100, " points") if is_share(metric) else (1, "")
    by = number.format(scale * abs(lead))
    if half is None:
        return f"it leads the next by {by}{unit}; one seed says nothing about noise: repeats=3 would"
    verdict = "more than noise" if abs(lead) > half else "within the noise: more repeats would tell"
    return f"it leads the next by {by} ± {number.format(scale * half)}{unit} (95 %, paired seeds): {verdict}"


def _what_matters(found: Findings) -> list[str]:
    said = []
    for importance in found.importances:
        shares = ", ".join(f"{short(key)} {share:.0%}" for key, share in importance.shares.items())
        among = f", where {importance.among}" if importance.among else ""
        over = f"share of the variance over {importance.trials} trials after epoch {importance.epoch}{among}"
        said.append(f"what matters ({over}): {shares}")
    noise = seed_share(found.trials, comparable(found.trials, found.metric)[1])
    if found.importances and noise is not None:
        said.append(f"seeds alone make {noise:.0%} of that variance")
    return said
