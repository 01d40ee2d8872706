"""The rooms of the package: who may import whom, and what a folder may hold."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import qa_fast

from .helpers.programs import run_python

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "qa_fast"
KERNELS = ROOT / "kernels"

# A room may import these and no other; * for types only. Everyone may take __version__.
ALLOWED = {
    "files": "",
    "models": "files",
    "kernels": "",
    "decoding": "kernels",
    "data": "files decoding*",
    "texts": "data decoding*",
    "engine": "texts data decoding models",
    "dropin": "engine texts data decoding",
    "runs": "engine texts data files models",
    "evaluation": "engine runs data files decoding*",
    "pages": "evaluation data files dropin*",
    "ray": "runs engine data",
    "patch": "dropin",
    "cli": "ray pages evaluation runs dropin engine data files models",
    "__main__": "cli",
    # The public names, each loaded at its first use.
    "__init__": "data* decoding* dropin* evaluation* pages* runs*",
}
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
# The rooms, and the folders inside of them.
FOLDERS = sorted(path.parent for path in PACKAGE.glob("*/**/__init__.py"))
# Importing these loads no PyTorch.
LIGHT = ["files", "data", "texts", "evaluation", "pages", "cli", "runs.merging"]
MOST_FILES, MOST_LINES, MOST_CODE = 15, 450, 60


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *KERNELS.glob("*.py")])


def module_of(path: Path) -> list[str]:
    """The parts of its name below qa_fast, packages as ``[..., "__init__"]``."""
    base, room = (KERNELS, ["kernels"]) if path.is_relative_to(KERNELS) else (PACKAGE, [])
    return [*room, *path.relative_to(base).with_suffix("").parts]


def imports(tree: ast.AST, module: list[str]) -> Iterator[tuple[str, int, bool]]:
    """What ``module`` imports of the package: dotted below qa_fast, its line, and if for types only."""
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ["qa_fast", *module[: len(module) - node.level]] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            if name == "qa_fast" or name.startswith("qa_fast."):
                yield (
                    name.removeprefix("qa_fast").removeprefix("."),
                    node.lineno,
                    id(node) in for_types,
                )


def wrong_arrows(path: Path, code: str) -> list[str]:
    module = module_of(path)
    room = module[0]
    allowed = ALLOWED[room].split()
    found = []
    for target, line, for_types in imports(ast.parse(code), module):
        to = target.partition(".")[0]
        if to in (room, "__version__") or to in allowed or (for_types and f"{to}*" in allowed):
            continue
        found.append(f"{'/'.join(module)}.py:{line} imports {target or 'qa_fast'}")
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: "/".join(module_of(path)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    assert wrong_arrows(path, path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "code", "wrong"),
    [
        ("engine/engine.py", "from .forward import Forward", False),
        ("engine/engine.py", "from qa_fast.data.answers import Answer", False),
        ("engine/engine.py", "from qa_fast import __version__", False),
        ("engine/engine.py", "import qa_fast.dropin.pipeline", True),
        ("engine/engine.py", "def late():\n    from qa_fast.cli import main", True),
        ("engine/engine.py", "from ..files.reading import open_file", True),
        ("engine/engine.py", "from .. import files", True),
        ("engine/engine.py", "import qa_fast", True),
        ("engine/__init__.py", "from .engine import Engine", False),
        ("engine/__init__.py", "from ..runs import predict", True),
        (
            "data/answers.py",
            "if TYPE_CHECKING:\n    from qa_fast.decoding.search import Scoring",
            False,
        ),
        ("data/answers.py", "from qa_fast.decoding.search import Scoring", True),
        ("cli/ask.py", "def late():\n    import qa_fast.decoding.spans", True),
        ("ray.py", "from .runs.answering import Answering", False),
        ("ray.py", "from .dropin.pipeline import pipeline", True),
    ],
)
def test_arrows_are_seen_wherever_they_stand(file: str, code: str, wrong: bool) -> None:
    assert bool(wrong_arrows(PACKAGE / file, code)) == wrong


def test_what_is_private_to_a_file_stays_in_it() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {alias.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and (node.level or (node.module or "").startswith("qa_fast"))
        for alias in node.names
        if alias.name.startswith("_") and alias.name != "__version__"
    ]
    assert wrong == []


@pytest.mark.parametrize("name", LIGHT)
def test_light_rooms_load_no_torch(name: str) -> None:
    room = PACKAGE.joinpath(*name.split("."))
    names = [name]
    if room.is_dir():
        files = [path.relative_to(PACKAGE).with_suffix("").parts for path in room.rglob("*.py")]
        names += [".".join(parts) for parts in files if parts[-1] != "__init__"]
    imported = "; ".join(f"import qa_fast.{module}" for module in sorted(names))
    assert run_python(f"import sys; {imported}; print('torch' in sys.modules)") == "False"


def test_every_room_is_installed_tested_and_in_the_table_of_rooms() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = ast.literal_eval(project.partition("\npackages = ")[2].partition("]")[0] + "]")
    names = [".".join(["qa_fast", *folder.relative_to(PACKAGE).parts]) for folder in FOLDERS]
    assert packages == sorted(["qa_fast", "qa_fast.kernels", *names])
    assert set(ROOMS) | {"kernels", "ray", "patch", "__main__", "__init__"} == set(ALLOWED)
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for room in ROOMS:
        assert list((ROOT / "tests" / room).glob("test_*.py")), room
        first = (importlib.import_module(f"qa_fast.{room}").__doc__ or "").splitlines()[0]
        assert f"| `{room}/` | {first} |" in table, room


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_room_has_a_map_of_its_files(folder: Path) -> None:
    """The docstring of its ``__init__.py`` names every file, and nothing that is not there."""
    name = ".".join(["qa_fast", *folder.relative_to(PACKAGE).parts])
    text = importlib.import_module(name).__doc__ or ""
    listed = re.findall(r"^- `+([\w-]+)`+:", text, re.MULTILINE)
    there = {
        path.stem
        for path in folder.iterdir()
        if not path.name.startswith("_") and path.suffix != ".c"
    }
    assert sorted(listed) == sorted(there)


def code_lines(function: ast.FunctionDef) -> int:
    """Lines of a function that hold code: no signature, docstring, blank line or comment."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    if not body:
        return 0
    lines = {
        line
        for statement in body
        for line in range(statement.lineno, (statement.end_lineno or 0) + 1)
    }
    return len(lines)


def test_no_folder_file_or_function_is_too_large() -> None:
    wrong = []
    for folder in {path.parent for path in sources()}:
        files = [path for path in folder.iterdir() if path.is_file() and path.suffix != ".so"]
        if len(files) > MOST_FILES:
            wrong.append(f"{folder.name}/ holds {len(files)} files")
    for path in sources():
        code = path.read_text(encoding="utf-8")
        if (lines := len(code.splitlines())) > MOST_LINES:
            wrong.append(f"{path.relative_to(ROOT)} has {lines} lines")
        for node in ast.walk(ast.parse(code)):
            lines = code_lines(node) if isinstance(node, ast.FunctionDef) else 0
            if lines > MOST_CODE:
                wrong.append(f"{path.relative_to(ROOT)}: {node.name} has {lines} lines of code")
    assert wrong == []


def test_what_lies_beside_the_rooms_is_a_documented_path() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files == {"__init__", "__main__", "patch", "ray"}
    assert not {*ROOMS, "kernels", "patch", "ray"} & set(qa_fast.__all__)
