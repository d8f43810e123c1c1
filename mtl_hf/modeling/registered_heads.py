"""Heads of other packages.

Empty here: `mtl_hf.register_task_type` adds to it. Where a saved model has such heads, the copy of this file beside its
weights imports their files instead, which are saved with it, so that the model loads without the package that trained it.
"""

from .head import Head

REGISTERED: list[type[Head]] = []
