"""The shape of the package: who may import whom, what ``core`` must not know, what ``import aioice`` gives."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import aioice

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "aioice"

#: Lower ranks know nothing of higher ones; within one rank imports may not run in circles.
CORE_RANKS = {
    "address": 0,
    "record": 0,
    "machine": 0,
    "events": 0,
    "deadlines": 0,
    "attributes": 1,
    "message": 1,
    "candidate": 1,
    "demux": 1,
    "dnswire": 1,
    "requests": 2,
    "credentials": 2,
    "turn_errors": 2,
    "checklist": 2,
    "peers": 2,
    "questions": 1,
    "rewrites": 1,
    "servers": 1,
    "inquiries": 1,
    "transactions": 3,
    "lifetime": 3,
    "allocation": 3,
    "bases": 4,
    "selection": 3,
    "consent": 3,
    "multicast": 3,
    "responder": 3,
    "pseudonyms": 3,
    "connectivity": 4,
    "generation": 4,
    "accepting": 5,
    "gathering": 5,
    "grants": 2,
    "outcomes": 2,
    "hiding": 3,
    "waiting": 2,
    "reflexive": 4,
    "relays": 4,
    "seats": 2,
    "sending": 5,
    "remotes": 5,
    "session": 5,
    "agent": 6,
    "stats": 7,
    "plain": 7,
    "trace": 8,
    "diagnosis": 9,
}

#: Time, randomness, input and output come into ``core`` from outside.
IMPURE = {
    "asyncio",
    "concurrent",
    "datetime",
    "ifaddr",
    "logging",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "sys",
    "tempfile",
    "threading",
    "time",
    "uuid",
}

#: The simulator draws from a seeded generator and touches neither clock nor network.
IMPURE_SIM = IMPURE - {"random"}
#: But for its event loop, which stands in for them.
SIM_LOOP = {"endpoints", "loop", "patches", "transports"}


class Import(NamedTuple):
    module: str
    line: int


def modules(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Everything that can run: what stands under TYPE_CHECKING does not."""
    yield node
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            assert isinstance(child, ast.If)
            for statement in child.orelse:
                yield from walk(statement)
        else:
            yield from walk(child)


def imports(path: Path) -> list[Import]:
    """Absolute names of all that a module imports, lazily or not; ``from x import y`` gives ``x.y``."""
    found = []
    name = name_of(path).split(".")
    package = name if path.name == "__init__.py" else name[:-1]
    for node in walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            found += [Import(".".join([*base, alias.name]), node.lineno) for alias in node.names]
    return found


def core_target(name: str) -> str | None:
    """The module of ``core`` that a name lies in."""
    parts = name.split(".")
    return parts[2] if parts[:2] == ["aioice", "core"] and len(parts) > 2 else None


def room(name: str) -> str | None:
    """``core``, ``net``, ``sim``, ``cli`` or the module of the shell that a name of this package lies in."""
    parts = name.split(".")
    if parts[0] != "aioice":
        return None
    return parts[1] if len(parts) > 1 else ""


def violations(folder: str, allowed_rooms: set[str]) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {module}"
        for path in modules(PACKAGE / folder)
        for module, line in imports(path)
        if room(module) is not None and room(module) not in allowed_rooms
    ]


def impurities(folder: str, forbidden: set[str]) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {module}"
        for path in modules(PACKAGE / folder)
        for module, line in imports(path)
        if module.split(".")[0] in forbidden
    ]


def test_core_is_pure() -> None:
    assert impurities("core", IMPURE) == []


def test_sim_is_pure() -> None:
    found = impurities("sim", IMPURE_SIM)
    assert [line for line in found if line.split(":")[0].split(".")[-1] not in SIM_LOOP] == []


def test_core_has_ranks_for_all() -> None:
    names = {path.stem for path in modules(PACKAGE / "core")} - {"__init__"}
    assert names <= set(CORE_RANKS), "give the new module a rank"


def test_core_imports_point_down() -> None:
    wrong = []
    for path in modules(PACKAGE / "core"):
        for module, line in imports(path):
            target = core_target(module)
            if target in CORE_RANKS and CORE_RANKS[target] > CORE_RANKS.get(path.stem, -1):
                wrong.append(f"{path.stem}:{line} imports {module}")
    assert wrong == []


def test_core_has_no_circles() -> None:
    graph = {path.stem: {core_target(name) for name, _ in imports(path)} for path in modules(PACKAGE / "core")}
    left = {name: targets & set(graph) for name, targets in graph.items()}
    while ready := {name for name, targets in left.items() if not targets}:
        left = {name: targets - ready for name, targets in left.items() if name not in ready}
    assert left == {}


def test_core_knows_itself_alone() -> None:
    assert violations("core", {"core"}) == []


def test_sim_rests_on_core() -> None:
    assert violations("sim", {"core", "sim"}) == []


def test_net_knows_nothing_of_ice() -> None:
    assert violations("net", {"core", "net"}) == []
    assert [
        f"{path.stem}:{line}"
        for path in modules(PACKAGE / "net")
        for module, line in imports(path)
        if core_target(module) in ("agent", "trace", "gathering", "checklist", "selection", "consent", "generation")
    ] == []


def test_shell_modules_that_only_import() -> None:
    for name in ("candidate", "utils"):
        path = PACKAGE / f"{name}.py"
        defined = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
        assert defined == [], f"{name}.py is an old address: what it names lives elsewhere"


def test_third_party_imports_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    used = {
        module.split(".")[0]
        for path in modules(PACKAGE)
        for module, _ in imports(path)
        if module.split(".")[0] not in sys.stdlib_module_names and room(module) is None
    }
    # uvloop is the user's choice; the command line takes it when it is there. pytest is what imports its plugin.
    assert {{"dns": "dnspython"}.get(name, name) for name in used} - {"uvloop", "pytest"} == declared


def test_pytest_is_for_the_plugin_alone() -> None:
    users = [name_of(path) for path in modules(PACKAGE) if any(used.module == "pytest" for used in imports(path))]
    assert users == ["aioice.pytest_plugin"]


def test_import_gives_the_modules() -> None:
    script = (
        "import json, sys, aioice\n"
        "names = [m.__name__ for m in"
        " (aioice.ice, aioice.stun, aioice.turn, aioice.mdns, aioice.candidate, aioice.utils)]\n"
        "heavy = [n for n in ('dns', 'ifaddr', 'ssl', 'cryptography', 'dataclasses') if n in sys.modules]\n"
        "print(json.dumps([names, heavy]))"
    )
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT / "src")
    names, heavy = json.loads(output.stdout)
    assert names == [f"aioice.{name}" for name in ("ice", "stun", "turn", "mdns", "candidate", "utils")]
    # asyncio itself loads ssl.
    assert set(heavy) <= {"ssl"}


@pytest.mark.parametrize("name", ["Candidate", "Connection", "ConnectionClosed", "TransportPolicy"])
def test_public_names(name: str) -> None:
    assert getattr(aioice, name) is getattr(importlib.import_module("aioice.ice"), name)
    assert name in aioice.__all__
    assert name in dir(aioice)


def test_all_names_are_there() -> None:
    for name in aioice.__all__:
        getattr(aioice, name)
    with pytest.raises(AttributeError):
        _ = aioice.no_such_name


def test_version_is_that_of_the_changelog() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == aioice.__version__


def test_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
