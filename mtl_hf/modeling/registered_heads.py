"""Heads of other packages.

Empty here. Where a saved model has such heads, the copy of this file beside its weights imports their files, which are
saved with it, so that the model loads without the package that trained it.
"""

from .head import Head

REGISTERED: list[type[Head]] = []
