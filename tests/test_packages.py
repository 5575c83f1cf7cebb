"""The order of the packages: each imports only from those above it in the list, and modules form no cycle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sonolora

SOURCE = Path(sonolora.__file__).parent
# docs/architecture.md has the same list, and says what is in each.
ORDER = (
    "core",
    "media",
    "analysis",
    "ltx.weights",
    "ltx.memory",
    "ltx.model",
    "ltx.text",
    "ltx.codec",
    "ltx.lora",
    "conditioning",
    "cuda_graph",
    "modes",
    "data",
    "sampling",
    "training",
    "planning",
    "runs",
    "server",
    "cli",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCE.rglob("*.py")}


def imported(path: Path) -> Iterator[str]:
    """The modules of the package that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "sonolora":
            base = (node.module or "").removeprefix("sonolora").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                yield inner if inner in MODULES else base
        elif isinstance(node, ast.Import):
            yield from (
                alias.name.removeprefix("sonolora.") for alias in node.names if alias.name.startswith("sonolora.")
            )


def package(module: str) -> str | None:
    return next((name for name in ORDER if module == name or module.startswith(f"{name}.")), None)


@pytest.mark.parametrize("name", ORDER)
def test_a_package_imports_only_from_those_before_it(name):
    allowed = ORDER[: ORDER.index(name) + 1]
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        if package(module) == name
        for other in imported(path)
        if other and package(other) not in allowed
    ]
    assert not wrong


def test_every_module_is_in_the_order():
    outside = {module for module in MODULES if package(module) is None}
    assert outside == {"", "__main__", "ltx"}


def test_no_cycle():
    graph = {module: {other for other in imported(path) if other != module} for module, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))
