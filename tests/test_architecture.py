"""Tests of the house plan: who may import whom, read from the source."""

import ast
import re
import sys
from pathlib import Path

import pytest

from mtl_hf.modeling.heads import HEADS
from mtl_hf.tasks import TASK_TYPES

PACKAGE = Path(__file__).parents[1] / "mtl_hf"
FILES = sorted(PACKAGE.rglob("*.py"))
# Reading order. A room imports only from rooms to its left.
ROOMS = (
    "modeling", "files", "findings", "config", "statistics", "tasks", "command", "data", "metrics", "training",
    "saved", "evaluation", "inference", "hub", "run", "experiments", "cli",
)  # fmt: skip
# What a machine that loads a model from the Hub has; everything else would have to be installed there.
TRAVELS_WITH = {
    "torch", "transformers", "huggingface_hub", "numpy", "tokenizers", "tqdm", "safetensors", *sys.stdlib_module_names,
}  # fmt: skip


def imports(file: Path) -> list[tuple[int, str]]:
    """(dots, dotted name) of every import of a file, also inside functions; names are resolved for `from . import x`.

    Code for other processes stands in strings: what these import counts, too.
    """
    source = file.read_text(encoding="utf-8")
    found = [(0, name) for name in re.findall(rf"^ *[\"']?from ({PACKAGE.name}\.[\w.]+) import", source, flags=re.M)]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module)] if node.module else [(node.level, alias.name) for alias in node.names]
    return found


def imported_rooms(file: Path) -> set[str]:
    """Rooms that a file of the package imports from."""
    parents = file.relative_to(PACKAGE).parent.parts
    rooms = set()
    for dots, name in imports(file):
        if dots == 0 and name.split(".")[0] == PACKAGE.name:
            parts = name.split(".")[1:]
        elif dots > 0:
            parts = [*parents[: len(parents) - (dots - 1)], *name.split(".")]
        else:
            continue
        rooms.add(parts[0] if parts else PACKAGE.name)
    return rooms


def room(file: Path) -> str:
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def name_of(file: Path) -> str:
    return str(file.relative_to(PACKAGE))


def test_every_file_belongs_to_a_room_of_the_plan() -> None:
    assert {room(file) for file in FILES} <= {*ROOMS, "__init__", "__main__"}


@pytest.mark.parametrize("file", [file for file in FILES if room(file) in ROOMS], ids=name_of)
def test_a_room_imports_only_from_its_left(file: Path) -> None:
    allowed = {*ROOMS[: ROOMS.index(room(file)) + 1], "__version__"}
    assert imported_rooms(file) <= allowed


def test_a_run_needs_neither_the_command_line_nor_experiments() -> None:
    assert ROOMS.index("run") < ROOMS.index("experiments") < ROOMS.index("cli")
    files = [file for file in FILES if room(file) in ROOMS[: ROOMS.index("run") + 1]]
    assert PACKAGE / "run.py" in files
    assert not [name_of(file) for file in files if imported_rooms(file) & {"experiments", "cli"}]
    assert {name for _, name in imports(PACKAGE.parent / "run_multitask.py")} == {"mtl_hf.run"}


def test_imports_of_code_for_other_processes_are_seen() -> None:
    assert (0, "mtl_hf.run") in imports(PACKAGE / "experiments" / "compare.py")


@pytest.mark.parametrize("file", sorted((PACKAGE / "modeling").rglob("*.py")), ids=name_of)
def test_modeling_needs_only_what_travels_with_it(file: Path) -> None:
    for dots, name in imports(file):
        assert dots in (0, 1)  # `..` does not exist in the flat folder of a pulled model
        if dots:
            assert (PACKAGE / "modeling" / f"{name}.py").is_file()
        else:
            assert name.split(".")[0] in TRAVELS_WITH


def test_modeling_names_the_files_that_it_imports() -> None:
    # transformers copies what matches `from .x import`; `from . import x` it does not find.
    for file in (PACKAGE / "modeling").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level and not node.module)


@pytest.mark.parametrize("file", [file for file in FILES if room(file) != "tasks"], ids=name_of)
def test_only_its_own_files_know_the_name_of_a_task_type(file: Path) -> None:
    if file.parent.name == "modeling" and file.name.startswith(("head_", "decode_")):
        return
    named = [
        (node.lineno, node.value)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in TASK_TYPES
    ]
    assert not named


def test_a_type_of_the_package_is_files_of_its_name() -> None:
    for name in TASK_TYPES:
        assert (PACKAGE / "modeling" / f"decode_{name}.py").is_file() == HEADS[name].answers_texts
        assert (PACKAGE / "tasks" / f"{name}.py").is_file()
        assert (PACKAGE / "modeling" / f"head_{name}.py").is_file()
