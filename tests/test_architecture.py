"""The rules of the house: imports go down only, light rooms stay light, files and functions stay small.

Every rule is a function from a source tree to a list of faults; each is run on the real tree, where it must find
nothing, and on a small tree with one planted fault, where it must find exactly that.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "src" / "attune"

# A room is a file or folder below src/attune; all files named config... are one room.
FLOORS = {
    "types": 1,
    "errors": 1,
    "bundled": 1,  # the starter model and its task: data with a door
    "config": 2,
    "record": 2,
    "world": 2,
    "show": 3,
    "data": 3,
    "model": 3,
    "evals": 4,
    "train": 5,
    "cli": 6,
    "__main__": 7,  # python -m attune
    "": 7,  # __init__.py, the face: it may show everything, and nobody below may look at it
}
ONLY_FOR = {"show": {"cli", ""}}  # training cannot be broken by a chart: it never imports one
HEAVY = {"torch", "transformers", "peft", "accelerate"}
LIGHT = re.compile(r"(|types|errors|record|config\w*|cli(\.main)?|show(\..*)?|data(\.(?!batch$).*)?|bundled(\..*)?)$")
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
VERSION = "attune.__version__"  # the one thing of the face that all may read: it is written into every run
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MACHINE_PATH = re.compile(r"(?<![\w.$}/:<])/(?:home|Users|root|work|mnt|workspace)/[\w.-]")

Import = tuple[int, str, bool]  # line, full name of what is imported, whether it runs when the module is imported


def module_name(package: Path, file: Path) -> str:
    """Where a file stands in the package, with dots: `data.read`; a folder's __init__ is the folder; the face is ''."""
    parts = file.relative_to(package).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def room_of(module: str) -> str:
    """The room a module belongs to, such as `data` for `data.read`."""
    first = module.partition(".")[0]
    return "config" if first.startswith("config") else first


@cache
def parsed(file: Path) -> ast.Module:
    """A file, parsed once for all rules; no test changes a file that it has looked at."""
    return ast.parse(file.read_text(encoding="utf-8"))


def sources(package: Path) -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the package by its dotted name, parsed."""
    return {module_name(package, file): (file, parsed(file)) for file in sorted(package.rglob("*.py"))}


def is_for_types(node: ast.AST) -> bool:
    """Whether a statement is `if TYPE_CHECKING:`, whose imports never run."""
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def imports(node: ast.AST, *, at_import: bool = True) -> Iterator[Import]:
    """Every import below a node; inside a function or under TYPE_CHECKING it does not run at import."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name, at_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            source = "." * child.level + (child.module or "")
            yield from ((child.lineno, f"{source}.{alias.name}", at_import) for alias in child.names)
        else:
            runs = at_import and not is_for_types(child)
            runs = runs and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(child, at_import=runs)


def target_module(name: str, modules: set[str]) -> str | None:
    """The module of the package that an import such as `attune.data.read.read_rows` reaches; None if outside."""
    top, _, rest = name.partition(".")
    if top != "attune":
        return None
    parts = rest.split(".") if rest else []
    # The room is kept even where the file is not there (yet): an upward import is one all the same.
    while parts and ".".join(parts) not in modules and not (len(parts) == 1 and parts[0] in FLOORS):
        parts.pop()
    return ".".join(parts)


def reads_only_the_version(tree: ast.Module) -> bool:
    """Whether `import attune` serves nothing but `attune.__version__`."""
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "attune"]
    return all(node.attr == "__version__" for node in uses)


def find_upward_imports(package: Path) -> list[str]:
    """Imports that go up or sideways, relative imports, and rooms that stand on no floor."""
    found = []
    modules = sources(package)
    names = set(modules)
    for module, (file, tree) in modules.items():
        room = room_of(module)
        if room not in FLOORS:
            found.append(f"{file.name}: the room '{room}' stands on no floor")
            continue
        for line, name, _ in imports(tree):
            if name.startswith("."):
                found.append(f"{file.name}:{line}: relative import {name}")
                continue
            target = target_module(name, names)
            if target is None or room_of(target) == room or name == VERSION:
                continue
            if name == "attune" and reads_only_the_version(tree):
                continue
            to = room_of(target)
            allowed = FLOORS.get(to, 0) < FLOORS[room] and room in ONLY_FOR.get(to, {room})
            if not allowed:
                found.append(f"{file.name}:{line}: {room or 'the face'} must not import {name}")
    return found


@cache
def graph_at_import(package: Path) -> dict[str, set[str]]:
    """What each module imports when it is imported: modules of the package (and their folders), and outside names."""
    modules = sources(package)
    names = set(modules)
    graph: dict[str, set[str]] = {}
    for module, (_, tree) in modules.items():
        reached: set[str] = set()
        for _, name, runs in imports(tree):
            if not runs:
                continue
            target = target_module(name, names)
            if target is None:
                reached.add("outside " + name.split(".")[0])
            else:
                reached |= {target} | {target.rsplit(".", depth)[0] for depth in range(1, target.count(".") + 1)}
        graph[module] = reached - {module}
    return graph


def find_heavy_imports(package: Path) -> list[str]:
    """Light modules that reach torch or transformers when imported, and by which way."""
    graph = graph_at_import(package)
    found = []
    for start in sorted(module for module in graph if LIGHT.match(module)):
        ways = {start: [start]}
        pending = [start]
        while pending:
            module = pending.pop()
            for target in sorted(graph.get(module, ())):
                if target not in ways:
                    ways[target] = [*ways[module], target]
                    pending.append(target)
        found += [" -> ".join(ways[f"outside {name}"]) for name in sorted(HEAVY) if f"outside {name}" in ways]
    return found


def find_circles(package: Path) -> list[str]:
    """Modules that import each other in a circle when imported."""
    graph = graph_at_import(package)
    found = []
    for start in sorted(graph):
        seen: set[str] = set()
        pending = list(graph[start])
        while pending:
            module = pending.pop()
            if module not in seen:
                seen.add(module)
                # A module's own folder runs before it, so reaching the folder is no circle.
                pending += [target for target in graph.get(module, ()) if not module.startswith(f"{target}.")]
        if start in seen:
            found.append(f"{start} imports itself through others")
    return found


def find_long_files(folder: Path) -> list[str]:
    """Python files over the limit."""
    counts = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in sorted(folder.rglob("*.py"))}
    return [f"{file.name}: {lines} lines" for file, lines in counts.items() if lines > MAX_FILE_LINES]


def find_long_functions(folder: Path) -> list[str]:
    """Functions over the limit, docstring and decorators included."""
    found = []
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    found.append(f"{file.name}: {node.name} has {lines} lines")
    return found


def find_forbidden_names(folder: Path) -> list[str]:
    """Files and folders whose name says nothing."""
    names = [path for path in sorted(folder.rglob("*")) if path.suffix == ".py" or path.is_dir()]
    return [path.name for path in names if FORBIDDEN_NAMES & set(path.stem.lower().split("_"))]


def find_missing_docstrings(folder: Path) -> list[str]:
    """Files that do not open with a docstring; an empty file has nothing to say."""
    trees = {file: parsed(file) for file in sorted(folder.rglob("*.py"))}
    return [file.name for file, tree in trees.items() if tree.body and not ast.get_docstring(tree)]


def find_machine_paths(folder: Path) -> list[str]:
    """Lines that name a place of somebody's machine."""
    found = []
    for file in sorted(folder.rglob("*")):
        if file.suffix not in {".py", ".md", ".toml", ".yaml", ".yml", ".j2", ".html"} and file.name != "Makefile":
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                found.append(f"{file.name}:{number}: {line.strip()[:80]}")
    return found


Rule = Callable[[Path], list[str]]
PACKAGE_RULES: list[Rule] = [find_upward_imports, find_heavy_imports, find_circles]
FILE_RULES: list[Rule] = [find_long_files, find_long_functions, find_forbidden_names, find_missing_docstrings]
FOLDERS = ["src/attune", "tests", "benchmarks", "recipes"]


@pytest.mark.parametrize("rule", PACKAGE_RULES)
def test_package_obeys(rule: Rule) -> None:
    """The rooms import downward only, without circles, and the light ones without torch."""
    assert rule(PACKAGE) == []


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("rule", FILE_RULES)
def test_files_obey(rule: Rule, folder: str) -> None:
    """Files and functions are small, named for what they hold, and say what they are for."""
    assert rule(CHECKOUT / folder) == []


@pytest.mark.parametrize("folder", [*FOLDERS, "docs"])
def test_no_machine_paths(folder: str) -> None:
    """Nothing in the project names a place that exists on one machine only."""
    assert find_machine_paths(CHECKOUT / folder) == []


GOOD_TREE = {
    "__init__.py": '"""The face."""\n\n\ndef finetune():\n    from attune.train.run import finetune\n',
    "errors.py": '"""Errors."""\n',
    "config.py": '"""Settings."""\n\nimport attune\nfrom attune.errors import UserError\n\nV = attune.__version__\n',
    "config_file.py": '"""Files of settings."""\n\nfrom attune.config import Config\n',
    "data/__init__.py": '"""Data."""\n',
    "data/read.py": '"""Rows."""\n\nfrom attune import __version__\nfrom attune.errors import DataError\n',
    "data/batch.py": '"""Tensors."""\n\nimport torch\n',
    "show/console.py": '"""Lines."""\n\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import torch\n',
    "train/run.py": '"""A run."""\n\nimport torch\n\nfrom attune.data.read import read_rows\n',
    "cli/main.py": '"""Verbs."""\n\n\ndef main():\n    import torch\n',
}
PATH_OF_SOMEBODY = "/" + "home/ada/data.jsonl"
PLANTED = [
    (find_upward_imports, "data/mask.py", '"""M."""\nfrom attune.train.run import finetune\n', "data must not import"),
    (find_upward_imports, "data/mask.py", '"""M."""\nimport attune.show.console\n', "data must not import"),
    (find_upward_imports, "data/mask.py", '"""M."""\ndef f():\n    import attune.model\n', "data must not import"),
    (find_upward_imports, "train/plot.py", '"""P."""\nfrom attune.show import console\n', "train must not import"),
    (find_upward_imports, "errors.py", '"""E."""\nfrom attune import finetune\n', "errors must not import"),
    (find_upward_imports, "errors.py", '"""E."""\nimport attune\nattune.finetune()\n', "errors must not import"),
    (find_upward_imports, "config.py", '"""C."""\nfrom attune.record import RunFolder\n', "config must not import"),
    (find_upward_imports, "data/mask.py", '"""M."""\nfrom . import read\n', "relative import"),
    (find_upward_imports, "extra/thing.py", '"""X."""\n', "stands on no floor"),
    (find_heavy_imports, "show/charts.py", '"""C."""\nimport torch.nn\n', "show.charts -> outside torch"),
    (find_heavy_imports, "__init__.py", '"""F."""\nfrom attune.train import run\n', " -> train.run -> outside torch"),
    (find_heavy_imports, "config.py", '"""C."""\nfrom transformers import X\n', "config -> outside transformers"),
    (find_heavy_imports, "data/rows.py", '"""R."""\nfrom attune.data import batch\n', "data.rows -> data.batch -> out"),
    (
        find_heavy_imports,
        "data/__init__.py",
        '"""D."""\nfrom attune.data.batch import b\n',
        "data -> data.batch -> outside torch",
    ),
    (find_long_files, "data/long.py", '"""L."""\n' + "x = 1\n" * MAX_FILE_LINES, "long.py: 401 lines"),
    (find_long_functions, "data/long.py", '"""L."""\ndef f():\n' + "    x = 1\n" * 60, "f has 61 lines"),
    (find_forbidden_names, "data/text_utils.py", '"""T."""\n', "text_utils.py"),
    (find_forbidden_names, "common/words.py", '"""W."""\n', "common"),
    (find_missing_docstrings, "data/mute.py", "x = 1\n", "mute.py"),
    (find_machine_paths, "data/place.py", f'"""P."""\nplace = "{PATH_OF_SOMEBODY}"\n', "place.py:2"),
]


def plant(folder: Path, files: dict[str, str]) -> Path:
    """Write a package into a folder and return where it stands."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("rule", [*PACKAGE_RULES, *FILE_RULES, find_machine_paths])
def test_rules_accept_a_good_tree(rule: Rule, tmp_path: Path) -> None:
    """A tree that obeys is left alone, so that a fault found means a fault made."""
    assert rule(plant(tmp_path, GOOD_TREE)) == []


@pytest.mark.parametrize(("rule", "name", "text", "message"), PLANTED)
def test_rules_find_a_planted_fault(rule: Rule, name: str, text: str, message: str, tmp_path: Path) -> None:
    """One planted fault is found, and named."""
    found = rule(plant(tmp_path, GOOD_TREE | {name: text}))
    assert found
    assert all(message in fault for fault in found[:1])


def test_a_circle_is_found(tmp_path: Path) -> None:
    """Two files of one room that import each other are a circle, though each import is downward enough."""
    pair = {"data/a.py": '"""A."""\nfrom attune.data import b\n', "data/b.py": '"""B."""\nimport attune.data.a\n'}
    assert len(find_circles(plant(tmp_path, GOOD_TREE | pair))) == 2
