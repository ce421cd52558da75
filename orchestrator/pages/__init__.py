"""Pages to pass on: each one HTML file, with its pictures inside."""

import base64
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def render(template: str, **values: Any) -> str:
    """The HTML that a template in this folder, which extends `page.html`, makes of values and of the time."""
    return _TEMPLATES.get_template(template).render(made=f"{datetime.now():%Y-%m-%d %H:%M}", **values)


def as_text(picture: Path) -> str:
    """A PNG file as it stands in a page."""
    return base64.b64encode(picture.read_bytes()).decode()
