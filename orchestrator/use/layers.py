"""`--layer best|last|N`: which layers of an encoder are meant."""

from ssl_core.errors import InputError
from ssl_core.use.best import best_layer
from ssl_core.use.subject import Subject


def chosen_layer(subject: Subject, text: str) -> tuple[int, str]:
    """A layer, from 1, and what speaks for it.

    Raises:
        InputError: the encoder has no such layer, or nothing says which is the best.
    """
    if text == "best":
        if subject.folder is None:
            raise InputError(
                f"--layer best: {subject.name} belongs to no run, whose figures would say it; strata evaluate names "
                "the best layer of any weights: give its number"
            )
        found = best_layer(subject.folder, subject.digest)
        return found.layer, f"the best {found}".replace(f"layer {found.layer}", "layer", 1)
    depth = subject.encoder.depth
    if text == "last":
        return depth, "the last"
    if not text.isdecimal() or not 1 <= int(text) <= depth:
        raise InputError(
            f"--layer: expected best, last, or a number from 1 to {depth}, which {subject.config.backbone.name} has "
            f"(given: {text})"
        )
    return int(text), ""


def chosen_layers(subject: Subject, text: str) -> list[int]:
    """Several, ascending: `1,6,12`, also with `best` and `last` among them.

    Raises:
        InputError: as above.
    """
    return sorted({chosen_layer(subject, part.strip())[0] for part in text.split(",")})
