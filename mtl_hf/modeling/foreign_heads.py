"""Heads of other packages, saved with a model: their files go beside its weights, and load without those packages.

Notable: transformers copies the file of a model's class and whatever that imports from its own folder. The file of a
foreign head is added there as `head_<type>.py`, with `from mtl_hf.modeling.x import y` written as `from .x import y`,
and the copy of `registered_heads.py` imports it.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from .head import Head

# What the file of a head may import: beside Python's own modules, what every machine with the model has.
ALLOWED = ("numpy", "torch", "transformers")
_HERE = Path(__file__).resolve().parent
_PACKAGE = "mtl_hf.modeling"


def is_foreign(head: type[Head]) -> bool:
    """Whether the class of a head is from a file outside of this folder."""
    return Path(inspect.getfile(head)).resolve().parent != _HERE


def check_travels(head: type[Head]) -> None:
    """Check that the file of a foreign head can go with a model.

    Raises:
        ValueError: There is no such file (a class made in a session), or it imports what other machines may not have.
    """
    try:
        source = inspect.getsource(sys.modules[head.__module__])
    except (OSError, TypeError, KeyError) as error:
        raise ValueError(
            f"{head.__name__} has no source file, which would be saved with each model: {error}."
        ) from error
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = ["." if node.level else str(node.module)]
        for name in names:
            root = name.split(".")[0]
            if name.startswith(f"{_PACKAGE}.") or root in ALLOWED or root in sys.stdlib_module_names:
                continue
            found = "from its own package" if name == "." else name
            raise ValueError(
                f"{inspect.getfile(head)} imports {found}, but it is saved with each model and may import only"
                f" {', '.join(ALLOWED)}, Python's own modules and {_PACKAGE}.<file>."
            )


def save_foreign(folder: str | Path, heads: Iterable[type[Head]]) -> None:
    """Write the files of foreign heads into the folder of a saved model, which holds the files of this one already."""
    foreign = {head.kind: head for head in heads if is_foreign(head)}
    if not foreign:
        return
    folder = Path(folder)
    lines = ['"""Heads of other packages that this model has."""', ""]
    for kind, head in foreign.items():
        source = inspect.getsource(sys.modules[head.__module__])
        source = re.sub(rf"^from {re.escape(_PACKAGE)}\.", "from .", source, flags=re.MULTILINE)
        (folder / f"head_{kind}.py").write_text(source, encoding="utf-8")
        lines.append(f"from .head_{kind} import {head.__name__}")
    lines += ["", f"REGISTERED = [{', '.join(head.__name__ for head in foreign.values())}]", ""]
    (folder / "registered_heads.py").write_text("\n".join(lines), encoding="utf-8")
