"""Checks the shape of the code: the sizes of files, functions, classes and folders, their complexity, import cycles,
and the names of test modules.

    python tests/support/shape.py

Prints a line for each figure and each place outside a limit. Exit code 1 if a place is outside a limit and is not in
`EXCEPTIONS`, or if an exception is no longer needed. Generated files do not count.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from radon.complexity import cc_rank, cc_visit

SOURCE = Path(__file__).resolve().parents[2] / "src"
TESTS = Path(__file__).resolve().parents[1]
GENERATED = ("_pb2.py", "_connect.py")
FILE_LINES, FUNCTION_LINES, CLASS_METHODS, FOLDER_MODULES = 500, 60, 29, 12
WORST_RANK = "C"  # of radon: a cyclomatic complexity of 20

# Places that may be outside a limit, and why: "KIND PLACE" as this program prints it.
_DOCUMENTED = "a public method whose docstring documents all its arguments; its code is below 40 lines"
EXCEPTIONS: dict[str, str] = {
    "function iris.client.aio.client.AsyncIrisClient.run": _DOCUMENTED,
    "function iris.client.aio.log_methods.AsyncLogMethods.stream_task_logs": _DOCUMENTED,
    "function iris.client.client.IrisClient.run": _DOCUMENTED,
    "function iris.client.log_methods.LogMethods.stream_task_logs": _DOCUMENTED,
}


@dataclass(frozen=True)
class Place:
    """A file, function, class, folder or cycle that is outside a limit."""

    kind: str
    name: str
    size: str

    @property
    def key(self) -> str:
        """The key of the place in `EXCEPTIONS`."""
        return f"{self.kind} {self.name}"


def main() -> int:
    """Print the figures; return the exit code of the program."""
    files = {path: path.read_text() for path in sorted(SOURCE.rglob("*.py")) if not path.name.endswith(GENERATED)}
    trees = {path: ast.parse(text) for path, text in files.items()}
    places = [
        *long_files(files),
        *full_folders(files),
        *long_functions(trees),
        *large_classes(trees),
        *complex_functions(files),
        *import_cycles(trees),
        *equal_test_names(),
    ]
    print(f"{len(files)} files, {sum(text.count(chr(10)) for text in files.values())} lines")
    limits = {
        "file": f"files over {FILE_LINES} lines",
        "folder": f"folders over {FOLDER_MODULES} modules",
        "function": f"functions over {FUNCTION_LINES} lines",
        "class": f"classes of {CLASS_METHODS + 1} methods or more",
        "complex": f"functions of a worse complexity than {WORST_RANK}",
        "cycle": "import cycles",
        "tests": "names that two test modules share, so that pytest cannot import both",
    }
    for kind, limit in limits.items():
        found = [place for place in places if place.kind == kind]
        print(f"{limit}: {len(found)}")
        for place in found:
            reason = EXCEPTIONS.get(place.key)
            print(f"  {place.name} ({place.size})" + (f": {reason}" if reason else ""))
    outside = [place for place in places if place.key not in EXCEPTIONS]
    unneeded = sorted(EXCEPTIONS.keys() - {place.key for place in places})
    for key in unneeded:
        print(f"no longer outside a limit, remove from EXCEPTIONS: {key}")
    return 1 if outside or unneeded else 0


def long_files(files: dict[Path, str]) -> Iterator[Place]:
    """Yield the files that have too many lines."""
    for path, text in files.items():
        lines = text.count("\n")
        if lines > FILE_LINES:
            yield Place("file", module_name(path), f"{lines} lines")


def full_folders(files: dict[Path, str]) -> Iterator[Place]:
    """Yield the folders that have too many modules, not counting `__init__.py`."""
    modules = Counter(path.parent for path in files if path.name != "__init__.py")
    for folder, count in modules.items():
        if count > FOLDER_MODULES:
            yield Place("folder", ".".join(folder.relative_to(SOURCE).parts), f"{count} modules")


def long_functions(trees: dict[Path, ast.Module]) -> Iterator[Place]:
    """Yield the functions that have too many lines, docstrings included."""
    for path, tree in trees.items():
        for name, node in definitions(tree):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if not isinstance(node, ast.ClassDef) and lines > FUNCTION_LINES:
                yield Place("function", f"{module_name(path)}.{name}", f"{lines} lines")


def large_classes(trees: dict[Path, ast.Module]) -> Iterator[Place]:
    """Yield the classes that have too many methods, properties included."""
    for path, tree in trees.items():
        for name, node in definitions(tree):
            if isinstance(node, ast.ClassDef):
                methods = sum(isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) for one in node.body)
                if methods > CLASS_METHODS:
                    yield Place("class", f"{module_name(path)}.{name}", f"{methods} methods")


def complex_functions(files: dict[Path, str]) -> Iterator[Place]:
    """Yield the functions that radon ranks too complex."""
    for path, text in files.items():
        for block in cc_visit(text):
            if block.letter != "C" and cc_rank(block.complexity) > WORST_RANK:
                yield Place("complex", f"{module_name(path)}.{block.fullname}", f"complexity {block.complexity}")


def import_cycles(trees: dict[Path, ast.Module]) -> Iterator[Place]:
    """Yield the cycles of modules that import each other, also the ones that exist only for type checkers.

    An import inside a function does not count: it is written there because the module is loaded only when needed.
    """
    modules = {module_name(path): path for path in trees}
    graph = {name: imported_modules(trees[path], modules) - {name} for name, path in modules.items()}
    for members in strong_components(graph):
        if len(members) > 1:
            yield Place("cycle", " <-> ".join(sorted(members)), f"{len(members)} modules")


def equal_test_names() -> Iterator[Place]:
    """Yield the names of test modules that occur in two folders."""
    modules = Counter(path.name for path in TESTS.rglob("test_*.py"))
    for name, count in modules.items():
        if count > 1:
            yield Place("tests", name, f"{count} folders")


def imported_modules(tree: ast.Module, modules: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a module imports outside of functions."""
    found = set()
    for node in outside_functions(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from iris.rpc import cluster_pb2` imports a module, `from iris.errors import IrisError` a name of one.
            found |= names & modules.keys() or {node.module}
    return found & modules.keys()


def outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree that are not inside a function."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from outside_functions(child)


def definitions(
    tree: ast.AST, prefix: str = ""
) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    """Yield the functions and classes of a tree with their qualified names, nested ones included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name, node
            yield from definitions(node, f"{prefix}{node.name}.")
        else:
            yield from definitions(node, prefix)


def strong_components(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that can reach each other: Tarjan's algorithm."""
    numbers: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        numbers[name] = lowest[name] = len(numbers)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in numbers:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], numbers[other])
        if lowest[name] == numbers[name]:
            at = stack.index(name)
            found.append(set(stack[at:]))
            del stack[at:]

    for name in sorted(graph):
        if name not in numbers:
            visit(name)
    return found


def module_name(path: Path) -> str:
    """Return the dotted name of a module."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


if __name__ == "__main__":
    sys.exit(main())
