"""From a recipe's name or a YAML file, and `KEY=VALUE` overrides, to a checked `RunConfig`.

A recipe is a YAML file with a few lines over the schema's defaults; `extends: NAME` starts from
another one. Every error names the key, where it was set (file and line, or the command line), what
was expected, and the nearest valid key.
"""

from ssl_core.recipes.load import load, merge, names, remarks, title
from ssl_core.recipes.read import Setting, line_of, parse_override
from ssl_core.recipes.table import describe, dump, flatten, rows, typed

__all__ = [
    "Setting",
    "describe",
    "dump",
    "flatten",
    "line_of",
    "load",
    "merge",
    "names",
    "parse_override",
    "remarks",
    "rows",
    "title",
    "typed",
]
