"""Heads of other packages.

The list is empty here. If a saved model has such heads, the copy of this file beside its weights imports their files,
which are saved too, so that the model loads without the package that trained it.
"""

from .head import Head

REGISTERED: list[type[Head]] = []
