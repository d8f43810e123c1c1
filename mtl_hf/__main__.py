"""`python -m mtl_hf` is `mtl-hf`."""

from .cli import main

main()
