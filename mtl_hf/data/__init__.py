"""From files to batches: load, check and split sources, encode them, decide which rows train when."""
