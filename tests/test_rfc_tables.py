"""The tables of docs/rfc: no cell is empty, each row says where it is held, and what it names exists."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "rfc").glob("*.md"))
COLUMNS = ("§", "what", "level", "where")
LEVELS = {
    *("MUST", "MUST NOT", "SHALL", "SHALL NOT", "REQUIRED", "SHOULD", "SHOULD NOT", "RECOMMENDED", "NOT RECOMMENDED"),
    *("MAY", "OPTIONAL"),
    "should",  # of texts that know no key words
}
#: Instead of a test, or beside one: why there is none, whose business it is, or which row tells.
REASON = re.compile(
    r"\*\*not\*\*[^|]{10,}|\*\*application's\*\*|\bno test\b|\bnot checked\b"
    r"|\b(?:as|see) (?:above|for|its|\[)|: see |, see "
)
CELL = re.compile(r"(?<!\\)\|")
TEST = re.compile(r"`(tests/[^`]*)`")
LINK = re.compile(r"\]\(([^)#:]+)[)#]|^\[[^\]]+\]: (\S+)$", re.MULTILINE)
CODE = re.compile(r"`[^`]*`")
REFERENCE = re.compile(r"\[([^\]]+)\](?![(:])")


class Row(NamedTuple):
    line: int
    cells: tuple[str, ...]


def rows(text: str) -> list[Row]:
    """What stands in the tables, heads and rules among it."""
    return [
        Row(number, tuple(cell.strip() for cell in CELL.split(line.strip())[1:-1]))
        for number, line in enumerate(text.splitlines(), 1)
        if line.lstrip().startswith("|")
    ]


def body(text: str) -> list[Row]:
    return [row for row in rows(text) if row.cells != COLUMNS and not set("".join(row.cells)) <= set("-: ")]


def collected(body: list[ast.stmt]) -> set[str]:
    """The names that pytest may collect; one that is assigned is a state machine's test case."""
    names = {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))}
    assigned = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    names.update(target.id for target in assigned if isinstance(target, ast.Name))
    return {name for name in names if name.startswith(("test_", "Test"))}


@functools.cache
def names_in(path: str) -> frozenset[str]:
    """All that may stand behind the name of this file: classes, functions, methods."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text())
    found = collected(tree.body)
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name in found:
            found |= {f"{node.name}::{name}" for name in collected(node.body)}
    return frozenset(found)


def exists(test: str) -> bool:
    path, _, name = test.partition("::")
    return name in names_in(path) if name else bool(names_in(path))


def test_there_are_tables() -> None:
    assert {"8445", "8838", "8863", "7675", "8421"} <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
class TestPage:
    def test_rows_are_whole(self, page: Path) -> None:
        text = page.read_text()
        assert body(text)
        assert [row for row in rows(text) if len(row.cells) != len(COLUMNS)] == []
        assert [row for row in body(text) if not all(row.cells)] == []
        heads = [row.cells for row in rows(text) if row not in body(text) and set("".join(row.cells)) - set("-: ")]
        assert set(heads) == {COLUMNS}

    def test_levels(self, page: Path) -> None:
        assert [row for row in body(page.read_text()) if not set(re.split(", ", row.cells[2])) <= LEVELS] == []

    def test_each_row_says_where(self, page: Path) -> None:
        last = [(row.line, row.cells[3]) for row in body(page.read_text())]
        silent = [(line, cell) for line, cell in last if not (TEST.search(cell) or REASON.search(cell))]
        assert silent == []

    def test_the_tests_exist(self, page: Path) -> None:
        named = [(row.line, test) for row in body(page.read_text()) for test in TEST.findall(row.cells[3])]
        assert [(line, test) for line, test in named if not exists(test)] == []

    def test_links(self, page: Path) -> None:
        text = page.read_text()
        links = [inline or defined for inline, defined in LINK.findall(text)]
        assert [link for link in links if not (page.parent / link).exists()] == []
        assert [name for name in REFERENCE.findall(CODE.sub("", text)) if f"\n[{name}]: " not in text] == []


def test_a_name_that_does_not_exist() -> None:
    here = "tests/test_rfc_tables.py"
    assert exists(here) and exists(f"{here}::test_there_are_tables") and exists(f"{here}::TestPage::test_links")
    for name in ("test_nothing", "TestPage::test_nothing", "TestNothing::test_links", "Row", "rows"):
        assert not exists(f"{here}::{name}")
    assert not exists("tests/test_nothing.py::test_links")
