"""Detect CSV files without a header, whose first row is read as the names of the columns and lost.

Notable: such a file is valid CSV, so this is only a warning.
"""

import logging
import re
from collections.abc import Mapping

import datasets
import pyarrow as pa
import pyarrow.compute as pc

logger = logging.getLogger(__name__)

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)?|[.,]\d+)([eE][+-]?\d+)?")
_SENTENCE_END = (".", "!", "?", "…", "。", "！", "？")


def header_problem(rows: datasets.Dataset) -> str:
    """Describe why the header seems to be a row of data, or a row to be the header; empty if there is no problem.

    Signs are a name that is also a value of its column (of strings), a name that is a sentence (4 words and a full
    stop, or 8 words), or a number that is not the column's position.

    Args:
        rows: The rows of a CSV file.
    """
    table = rows.data.table
    found = {
        name: row
        for name in rows.column_names
        if (pa.types.is_string(table[name].type) or pa.types.is_large_string(table[name].type))
        and (row := pc.index(table[name], name).as_py()) >= 0
    }
    if (
        len(found) > 1
        and len({*found.values()}) == 1
        and all(str(value) == name for name, value in rows[min(found.values())].items())
    ):
        return f"row {min(found.values()) + 1} repeats the names of the columns ({', '.join(found)}): remove it"
    start = "the first line seems to be a row, not the names of the columns"
    end = f"If it is one, name its {len(rows.column_names)} columns with the source's `column_names`"
    if found:
        name = next(iter(found))
        return f"{start}: row {found[name] + 1} has the value {_shown(name)} in the column of that name. {end}"
    for position, name in enumerate(rows.column_names):
        words = name.split()
        if len(words) >= 8 or (len(words) >= 4 and name.rstrip().endswith(_SENTENCE_END)):
            return f"{start}: the name {_shown(name)} reads as a sentence. {end}"
        if _NUMBER.fullmatch(name.strip()) and name.strip() != str(position):  # pandas numbers columns without names
            return f"{start}: the name {_shown(name)} is a number. {end}"
    return ""


def report_headers(splits: Mapping[str, datasets.Dataset], source: str) -> None:
    """Warn once about a CSV source whose first line does not look like a header.

    Args:
        splits: Split → its rows.
        source: Name of the source.
    """
    for split, rows in splits.items():
        if problem := header_problem(rows):
            logger.warning("Source %s, %s: %s.", source, split, problem)
            return


def _shown(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:37]}...")
