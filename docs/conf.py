"""The documentation as a site; ``scripts/docs`` builds it."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

import aioice  # noqa: E402
from aioice.core.record import Record  # noqa: E402

project = "aioice"
release = version = aioice.__version__
html_title = f"aioice {release}"
html_theme = "alabaster"
html_theme_options = {
    "description": "ICE (RFC 8445) for asyncio",
    "fixed_sidebar": True,
    "page_width": "75em",
    "body_max_width": "55em",
}
html_show_copyright = False
html_copy_source = False
html_static_path = ["_static"]  # the theme reads custom.css

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_heading_anchors = 2
default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"

#: Links as they are right on the repository's pages, and what they are on the site: some of these pages stand elsewhere
#: and are included.
LINKS = {
    "](../": "](",
    "](docs/": "](",
    "](README.md#stability": "](stability.md",
    "](SECURITY.md": "](security.md",
    "](tests/compat/surface.md": "](surface.md",
}


def redirect(text: list[str]) -> None:
    for old, new in LINKS.items():
        text[0] = text[0].replace(old, new)


def describe_record(app: Sphinx, what: str, name: str, value: object, options: object, *_: object) -> object:
    """Records take their fields, whose types stand in the class."""
    if not (isinstance(value, type) and issubclass(value, Record)):
        return None
    fields = [f"{field}: {kind}" for field, kind in value.__annotations__.items()]
    return f"({', '.join(fields)})", None


def describe_field(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """What Python says about the getter of a record's field says nothing about the field."""
    if lines and lines[0].startswith("itemgetter("):
        lines.clear()


def setup(app: Sphinx) -> None:
    app.connect("source-read", lambda app, page, text: redirect(text))
    app.connect("include-read", lambda app, path, page, text: redirect(text))
    app.connect("autodoc-process-signature", describe_record)
    app.connect("autodoc-process-docstring", describe_field)
    # That the constructor of all records returns anything is of no use to readers.
    Record.__new__.__annotations__.clear()
