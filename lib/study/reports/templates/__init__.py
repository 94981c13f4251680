"""The Jinja templates of pages, and the style sheet they share."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

__all__ = ["FOLDER", "template"]

FOLDER = Path(__file__).parent

_environment = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def template(name: str) -> Template:
    """A template of this folder; what it is given is escaped unless it is marked safe."""
    return _environment.get_template(name)
