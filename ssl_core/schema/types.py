"""What keys of several sections have in common: ranges, a value per view, a choice of layers."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Tag,
)


@dataclass(frozen=True)
class Form:
    """How a value is written, for errors: `expected TEXT`. Without one, the type says it (`ssl_core.recipes.words`)."""

    text: str


Paths = Annotated[
    Annotated[str, Field(min_length=1)] | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)],
    Form("text or a list, each text"),
]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Range = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], Form("[least, most], neither below 0")]


def rising(value: Any) -> Any:
    if value[0] > value[1]:
        raise ValueError(f"[{value[0]:g}, {value[1]:g}]: expected [least, most]")
    return value


ShareRange = Annotated[
    tuple[Annotated[float, Field(gt=0.0, le=1.0)], Annotated[float, Field(gt=0.0, le=1.0)]],
    AfterValidator(rising),
    Form("[least, most], shares above 0 and at most 1"),
]
Pixels = Annotated[int, Field(gt=0, le=2**14), Form("a whole number from 1 to 16,384")]
PositiveRange = Annotated[
    tuple[PositiveFloat, PositiveFloat], AfterValidator(rising), Form("[least, most], both above 0")
]


def _both_views(value: Any) -> Any:
    """One value means the same in both views: 0.5 is [0.5, 0.5]; [0.08, 1.0] for a range is that, twice."""
    return value if isinstance(value, (list, tuple)) else (value, value)


def _both_views_range(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and not any(isinstance(item, (list, tuple)) for item in value):
        return (value, value)
    return value


PerView = Annotated[
    tuple[Fraction, Fraction],
    BeforeValidator(_both_views),
    Form("a number from 0 to 1, or one for each view, [first, second]"),
]
RangePerView = Annotated[
    tuple[Range, Range], BeforeValidator(_both_views_range), Form("[least, most], or one such pair for each view")
]


@dataclass(frozen=True)
class Key:
    """What a key is for, whatever its value: `resume`, sweeps and `strata show` read it (`schema.keys`).

    A section says it of its keys, `Annotated[…, Key(…)]` of one.

    Attributes:
        science: it changes what is learned; otherwise only where, how fast, and what is told of it.
        resumes: a run may go on with another value.
        in_mid_run: a run may change it while it goes on, as population-based training does.
        shapes: weights have other shapes.
    """

    science: bool = True
    resumes: bool = False
    in_mid_run: bool = False
    shapes: bool = False

    def __str__(self) -> str:
        """`science, tunable`: as tables say it."""
        marks = {"shapes": self.shapes, "tunable": self.in_mid_run}
        return ", ".join(
            ["science" if self.science else "operation", *(mark for mark, is_so in marks.items() if is_so)]
        )


SHAPES, SCIENCE, OPERATION = Key(shapes=True), Key(), Key(science=False, resumes=True)
TUNABLE = Key(in_mid_run=True)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    key: ClassVar[Key] = SCIENCE
    """What its keys are, but for those that say so themselves."""


class EveryN(Section):
    every: PositiveInt


def _parse_layers(value: Any) -> Any:
    """`every: 2` and `every=2` on a command line mean {every: 2}."""
    if isinstance(value, str) and value.startswith("every"):
        return {"every": value.removeprefix("every").lstrip(" :=")}
    return value


def _layers_form(value: Any) -> str:
    if isinstance(value, (dict, EveryN)):
        return "every"
    return "list" if isinstance(value, list) else "named"


LayerChoice = Annotated[
    Annotated[Literal["all"], Tag("named")]
    | Annotated[EveryN, Tag("every")]
    | Annotated[list[PositiveInt], Field(min_length=1), Tag("list")],
    Discriminator(_layers_form),
    BeforeValidator(_parse_layers),
    Form("all, {every: n}, or a list of layers from 1 up, such as [1, 4, 8]"),
]
MeasuredLayers = Annotated[
    Annotated[Literal["all", "last"], Tag("named")]
    | Annotated[EveryN, Tag("every")]
    | Annotated[list[PositiveInt], Field(min_length=1), Tag("list")],
    Discriminator(_layers_form),
    BeforeValidator(_parse_layers),
    Form("all, last, {every: n}, or a list of layers from 1 up, such as [1, 4, 8]"),
]
