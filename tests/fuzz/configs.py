"""Configurations mutated at random: each must be accepted, or refused with a message and exit status 2.

    python -m tests.fuzz.configs --seconds 180 --seed 0

It prints a table of what was mutated and what came of it, and every other outcome with the input that led to it.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.sweeps.file import Sweep
from ssl_core import recipes
from ssl_core.errors import InputError
from ssl_core.schema import walk
from ssl_core.schema.run import RunConfig

KEYS = [*walk.every_key(RunConfig), "evaluation.0.every", "evaluation.7.k", "evaluation.-1.every", "no", ".", "a..b"]
VALUES = (
    "", "null", "~", "true", "0", "-1", "1", "1e308", "-1e-308", ".inf", ".nan", "1" * 40, "[]", "{}", "[1, 2]",
    "[[]]", "{a: 1}", "{1: 2}", "x", "x" * 5000, "é\udcff", "\0", "'", '"', "a: b: c", "&a", "*a", "!!python/name:os",
    "${optim.lr}", "${a", "${oc.env:HOME}", "\\${x}", "${seed}${name}", "2020-01-01", "1:30", "0x1f", "[a, [b", "#",
    "\t", "all", "every: 2", "mocov3", "knn", "[{kind: knn}]", "[{kind: nope}]", "[null]", "~nobody/x", "???",
)  # fmt: skip
ALWAYS = ["data.train=bundled:digits", "backbone.weights=w.pth"]
SPACE = """recipe: small-simclr
overrides: {data.train: 'bundled:digits'}
trials: 4
space:
  optim.lr: {loguniform: [1.0e-3, 1.0e-1]}
"""


def check_words(chance: random.Random, folder: Path) -> str:
    """A recipe with KEY=VALUE words."""
    words = [f"{chance.choice(KEYS)}={chance.choice(VALUES)}" for _ in range(chance.randint(0, 2))]
    recipe = chance.choice([*recipes.names(), "small-simclr"])
    return _outcome(lambda: recipes.load(recipe, [*ALWAYS, *words]), f"{recipe} {words}")


def check_recipe(chance: random.Random, folder: Path) -> str:
    """A recipe's file with damage."""
    name = chance.choice(recipes.names())
    text = recipes.dump(recipes.load(name, ALWAYS))
    file = folder / "recipe.yaml"
    file.write_bytes(_damaged(text, chance))
    return _outcome(lambda: recipes.load(file), file.read_bytes())


def check_sweep(chance: random.Random, folder: Path) -> str:
    """A sweep's file with damage."""
    file = folder / "sweep.yaml"
    file.write_bytes(_damaged(SPACE, chance))
    return _outcome(lambda: Sweep(file), file.read_bytes())


KINDS: dict[str, Callable[[random.Random, Path], str]] = {
    "KEY=VALUE": check_words,
    "recipe": check_recipe,
    "sweep": check_sweep,
}


def fuzz(seed: int, kinds: list[str], enough: Callable[[int], bool]) -> Counter[tuple[str, str]]:
    """How often each kind of input had which outcome; every input follows from the seed and its number.

    Args:
        enough: whether so many inputs will do.
    """
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in _until(enough):
            kind = kinds[number % len(kinds)]
            found[kind, KINDS[kind](random.Random(f"{seed} {number}"), Path(folder))] += 1
    return found


def _until(enough: Callable[[int], bool]) -> Iterator[int]:
    number = 0
    while not enough(number):
        yield number
        number += 1


def _outcome(read: Callable[[], object], given: object) -> str:
    try:
        read()
    except InputError as error:
        return "refused" if str(error).strip() else f"refused without a message: {given!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]} of {str(given)[:1500]!r}"
    return "accepted"


def _damaged(text: str, chance: random.Random) -> bytes:
    lines = text.splitlines()
    for _ in range(chance.randint(0, 2)):
        place = chance.randrange(len(lines))
        key, colon, _ = lines[place].partition(":")
        value = chance.choice(VALUES)
        lines[place] = chance.choice([f"{key}{colon} {value}", f"{lines[place]}{value}", value, f"extends: {value}"])
        if chance.random() < 0.2:
            lines.insert(place, lines[chance.randrange(len(lines))])
    data = bytearray("\n".join(lines).encode("utf-8", "surrogateescape"))
    if chance.random() < 0.2:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    given = parser.parse_args()
    end = time.monotonic() + given.seconds
    found = fuzz(given.seed, given.kinds, lambda number: time.monotonic() > end)
    print("| input | inputs | accepted | refused, exit 2 | anything else |\n|---|---:|---:|---:|---:|")
    for kind in given.kinds:
        of_kind = {outcome: count for (which, outcome), count in found.items() if which == kind}
        fine = [of_kind.pop(outcome, 0) for outcome in ("accepted", "refused")]
        bad = sum(of_kind.values())
        print(f"| {kind} | {sum(fine) + bad} | {fine[0]} | {fine[1]} | {bad} |")
    others = [(kind, outcome) for kind, outcome in found if outcome not in ("accepted", "refused")]
    for kind, outcome in others:
        print(f"\n{kind}: {outcome}")
    return 1 if others else 0


if __name__ == "__main__":
    raise SystemExit(main())
