"""What is known of positives before a run starts: whether its images allow them, what they will log, what is odd."""

from ssl_core.data.sources.base import Images
from ssl_core.errors import InputError
from ssl_core.schema.run import RunConfig


def check(config: RunConfig, images: Images) -> None:
    """Whether the images allow these positives.

    Raises:
        InputError: labels where there are none; more neighbours than images.
    """
    positives, count = config.positives, len(images.train)
    if positives.kind == "labels" and images.train.labels is None:
        raise InputError("positives.kind: labels needs a labelled data.train (class folders, or a label column)")
    if positives.searches and positives.top_k > count:
        raise InputError(f"positives.top_k: {positives.top_k} neighbours of {count} images; at most {count}")
    if positives.kind == "nearest" and count < 2:
        raise InputError("positives.kind: nearest needs at least 2 images")


def metric_names(config: RunConfig, images: Images) -> dict[str, bool]:
    """What `Positives.figures` gives in some epoch; whether that is sure, or depends on what is found and drawn."""
    given, labelled = config.positives, images.train.labels is not None
    if given.kind == "augment":
        return {}
    names = {"bootstrap_ratio": True} | ({"same_class": False} if labelled else {})
    if given.searches:
        second = given.kind == "nearest" or given.top_k > 1  # lists are of more than the image itself
        names |= {"gate_open": True, "self_similarity": False} | ({"spread": False} if second else {})
        names |= {"recall": False} if given.search == "ivf" else {}
        names |= ({"nn_top1": True} | ({"nn_top2": False} if second else {})) if labelled else {}
    return {f"positives/{name}": sure for name, sure in names.items()}


def remarks(config: RunConfig) -> list[str]:
    """What is allowed, but can hardly be meant."""
    positives, epochs = config.positives, config.optim.epochs
    if positives.kind != "adasim":
        return []
    found = []
    if positives.window >= epochs:
        found.append(
            f"positives.window={positives.window}: no neighbour is drawn before {positives.window} epochs are "
            f"finished, and the run has {epochs}: it trains as positives.kind=augment"
        )
    if positives.tau == 0:
        found.append("positives.tau=0: no neighbour is ever drawn: it trains as positives.kind=augment")
    if positives.top_k == 1 and positives.support == "topk":
        found.append("positives.top_k=1: the only neighbour is the image itself: it trains as positives.kind=augment")
    return found
