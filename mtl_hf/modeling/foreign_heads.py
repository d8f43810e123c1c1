"""Heads of other packages: their files are saved beside a model's weights, so that it loads without those packages.

Notable: transformers copies the file of a model's class and the files that it imports from the same folder. The file of
a foreign head is added as `head_<type>.py`, with `from mtl_hf.modeling.x import y` rewritten as `from .x import y`, and
the copy of `registered_heads.py` imports it.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from .head import Head

# Packages that the file of a head may import, besides Python's own: every machine that loads the model has them.
ALLOWED = ("numpy", "torch", "transformers")
_HERE = Path(__file__).resolve().parent
_PACKAGE = "mtl_hf.modeling"


def is_foreign(head: type[Head]) -> bool:
    """Whether the class of a head is defined outside of this folder."""
    return Path(inspect.getfile(head)).resolve().parent != _HERE


def check_travels(head: type[Head]) -> None:
    """Check that the file of a foreign head can be saved with a model.

    Raises:
        ValueError: There is no such file (a class of an interactive session), or it imports a package that is not
            allowed.
    """
    try:
        source = inspect.getsource(sys.modules[head.__module__])
    except (OSError, TypeError, KeyError) as error:
        raise ValueError(
            f"{head.__name__} has no source file, which is saved with each model: {error}. Define the class in a file."
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
    """Write the files of foreign heads into the folder of a saved model, which already has the other model code."""
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
