"""Sections that stand for code: which there are, and what they stand for. The schema class says it, in one place.

    class DINOConfig(ObjectiveConfig, implementation="ssl_core.objectives.dino:DINO"):
        name: Literal["dino"] = "dino"

Another package's classes are found by its entry points (`strata.objectives`, `strata.evaluators`), each of which
names such a class; importing them must import nothing of `ssl_core` but its schema.
"""

from functools import reduce
from importlib import import_module
from importlib.metadata import entry_points
from operator import or_
from typing import Annotated, Any, ClassVar, get_args

from pydantic import Field

from ssl_core.schema.types import Section


class Registered(Section):
    """The base of one kind of such sections; its direct children are the kinds.

    Attributes:
        tag: the key that names the class: `name` or `kind`.
        group: the entry points at which other packages add to it.
        implementation: `module:class` of what the section stands for.
    """

    tag: ClassVar[str]
    group: ClassVar[str]
    implementation: ClassVar[str] = ""
    known: ClassVar[dict[str, type["Registered"]]]

    def __init_subclass__(cls, implementation: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)  # `__pydantic_init_subclass__` takes it, once the fields are known

    @classmethod
    def __pydantic_init_subclass__(cls, implementation: str = "", **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        if not implementation:
            return
        cls.implementation = implementation
        (name,) = get_args(cls.model_fields[cls.tag].annotation)
        there = cls.known.setdefault(name, cls)
        if there is not cls and there.__qualname__ != cls.__qualname__:
            raise TypeError(f"{cls.tag} {name}: {cls.__module__} and {there.__module__} both have one")

    @classmethod
    def load(cls) -> Any:
        """What the section stands for."""
        module, _, name = cls.implementation.partition(":")
        return getattr(import_module(module), name)

    @classmethod
    def any_of(cls) -> Any:
        """The type of a key that takes any section of this kind, those of other packages too."""
        for entry in entry_points(group=cls.group):
            entry.load()
        return Annotated[reduce(or_, cls.known.values()), Field(discriminator=cls.tag)]
