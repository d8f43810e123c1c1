"""Files of rows as people have them: by spreadsheets, annotators' tools and scripts, whole and damaged.

Each file comes with what a config needs to read it. `clean` ones have nothing wrong and nothing unclear, and so have to
be read; what the rows of the others are says `oracle.py`, which sees only the bytes.
"""

import csv
import gzip
import io
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from pyarrow import parquet

from .oracle import HEADERS, Span, bio_spans

WORDS = ["play", "some", "jazz", "in", "rome", "book", "a", "table", "for", "two", "rain", "today"]
ODD_TEXTS = [
    "", " ", "\t", "NA", "nan", "null", "None", "-", "1", "3.5", "[1, 2]", '"', '""', "a\nb", "a\r\nb", "a\rb",
    "x\ty", "a,b;c|d",
    "\u200b", "\ufeff", "café", "cafe\u0301", "שלום עולם", "🙂👩‍👩‍👧", "a\u2028b", "\x07", "\x1f", "x" * 5000, "'",
    "\\", "#c", "a\u00a0b",
]  # fmt: skip
# Style → labels of one column, all of which are names of their own.
LABEL_STYLES: dict[str, list[str]] = {
    "words": ["pos", "neg", "mixed", "none of these"],
    "codes": ["01", "1", "001", "1E10", "1e10", "0x1F", "1.0", "1.10", "+1", "-0", "00"],
    "ids": ["9223372036854775807", "9223372036854775808", "1234567890123456789", "1234567890123456780"],
    "numbers": ["0", "1", "2", "10", "-1"],
    "missing-like": ["None", "null", "NA", "nan", "N/A", "NULL", "-", "none"],
    "truths": ["true", "false", "True", "yes", "no", "on", "Off"],
    "unicode": ["café", "cafe\u0301", "ﬁ", "fi", "שלום", "🙂", "İ", "ß", "日本"],
    "quoted": ['a"b', "a,b", "a;b", "a\nb", "'", '"', "[1]", "{a}", "#", "a\tb", "\\"],
    "floats": ["1.5", "2.5", "1e-3", "inf"],
    "dates": ["2024-01-01", "01/02/2024", "1-2", "12:30"],
}
TYPES = ("PER", "LOC", "geo-loc")


@dataclass(frozen=True)
class File:
    """A file of rows.

    Attributes:
        name: With its ending.
        content: Its bytes.
        source: What the config's source needs besides the file.
        task: What the config's task needs.
        clean: Whether it has to be read.
        about: What is odd about it.
        reading: What the oracle needs: `separator` and `encoding` of CSV.
        spans: The entities of each row, where its tags are of spans.
        rows: The rows of Parquet as they were written; None where the file was cut off.
    """

    name: str
    content: bytes
    source: dict[str, Any]
    task: dict[str, Any]
    clean: bool = False
    about: str = ""
    reading: dict[str, str] = field(default_factory=dict)
    spans: list[set[Span]] | None = None
    rows: list[dict[str, Any]] | None = None

    def __repr__(self) -> str:
        return (
            f"File({self.about}, {self.source}, {self.task}, clean={self.clean}, {self.name}: {self.content[:3000]!r})"
        )


@st.composite
def texts(draw: DrawFn, number: int, odd: bool) -> list[str]:
    """So many texts, all different but for odd ones."""
    found = []
    for index in range(number):
        words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4))
        found.append(" ".join([*words, f"n{index}"]))
    if odd:
        for _ in range(draw(st.integers(1, 3))):
            other = draw(st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=12)))
            place = draw(st.integers(0, number - 1))
            found[place] = f"{found[place]} {other}" if draw(st.booleans()) else other
    return found


@st.composite
def labels(draw: DrawFn, number: int) -> tuple[str, list[str]]:
    """A style, and so many labels of it: two different ones at least, each of them several times."""
    style = draw(st.sampled_from(sorted(LABEL_STYLES)))
    chosen = draw(st.lists(st.sampled_from(LABEL_STYLES[style]), min_size=2, max_size=4, unique=True))
    return style, [chosen[index % len(chosen)] for index in range(number)]


# ---- CSV ----

_NOT_CLEAN = ("\r", "\x00", "\ufeff")


@st.composite
def csv_files(draw: DrawFn) -> File:
    """Text, label and number of each row, by the `csv` module, and then perhaps damaged."""
    number = draw(st.integers(20, 30))
    odd = draw(st.sampled_from([False, False, True]))
    words = draw(texts(number, odd))
    style, names = draw(labels(number))
    trouble = draw(st.sampled_from(["none"] * 6 + CSV_TROUBLE))
    kind = draw(st.sampled_from(["sequence_classification"] * 4 + ["regression"]))
    if kind == "regression":
        style, names = "numbers", [str(index % 5) for index in range(number)]
        if trouble == "label":
            names[draw(st.integers(0, number - 1))] = draw(
                st.sampled_from(
                    [
                        "",
                        "inf",
                        "-inf",
                        "nan",
                        "1e308",
                        "1e400",
                        "x",
                        "1,5",
                        "0x10",
                        " 2 ",
                        "1_000",
                        "true",
                        "01",
                        "1e3",
                    ]
                )
            )
    elif trouble == "label":
        names[draw(st.integers(0, number - 1))] = draw(
            st.sampled_from(
                [
                    "",
                    " ",
                    names[0] + " ",
                    " " + names[0],
                    "\t" + names[0],
                    "\u00a0" + names[0],
                    names[0] + "\x00",
                    names[0].upper(),
                ]
            )
        )
    separator = draw(st.sampled_from([",", ",", ",", ";", "\t", "|"]))
    told = separator != "," and draw(st.booleans())
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    header = ["id", "text", "label"]
    if draw(st.booleans()):  # the column of labels need not be the last
        header = ["label", "id", "text"]
    rows = [
        {"id": f"r{index}", "text": text, "label": name}
        for index, (text, name) in enumerate(zip(words, names, strict=True))
    ]
    lines = [header, *([row[name] for name in header] for row in rows)]
    place = draw(st.integers(1, number))
    if trouble == "extra field":
        lines[place] = [*lines[place], draw(st.sampled_from(["", "x", "neg"]))]
    elif trouble == "extra field in all":
        lines[1:] = [[*line, "x"] for line in lines[1:]]
    elif trouble == "missing field":
        lines[place] = lines[place][:-1]
    elif trouble == "repeated header":
        lines[0] = [*header, draw(st.sampled_from(["label", "text", "id", "label.1", ""]))]
        lines[1:] = [[*line, "pos"] for line in lines[1:]]
    elif trouble == "no header":
        lines = lines[1:]
    elif trouble == "header only":
        lines = lines[:1]
    elif trouble == "space in header":
        lines[0] = [f" {name}" for name in header]
    elif trouble == "blank line":
        lines[place:place] = [[]]
    elif trouble == "empty row":
        lines[place:place] = [["", "", ""]]
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=separator, quoting=quoting, lineterminator=ending).writerows(lines)
    content = written.getvalue()
    if draw(st.booleans()):
        content = content.removesuffix(ending)
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "latin-1", "utf-16"]))
    told_encoding = encoding if encoding in ("latin-1", "utf-16") and draw(st.booleans()) else None
    try:
        content_bytes = content.encode(encoding)
    except UnicodeEncodeError:
        encoding, told_encoding = "utf-8", None
        content_bytes = content.encode("utf-8", "surrogatepass")
    if trouble == "open quote":
        at = content_bytes.rfind(separator.encode(), 0, len(content_bytes) // 2) + 1
        content_bytes = content_bytes[:at] + b'"' + content_bytes[at:]
    elif trouble == "cut":
        content_bytes = content_bytes[: draw(st.integers(0, len(content_bytes)))]
    elif trouble == "byte":
        at = draw(st.integers(0, len(content_bytes)))
        content_bytes = (
            content_bytes[:at]
            + draw(st.sampled_from([b"\x00", b"\xff", b"\xe9", b'"', b"\r", b"\n", b"\x1a"]))
            + content_bytes[at:]
        )
    source: dict[str, Any] = {"path": "csv", "text": "text"}
    source |= {"sep": separator} if told else {}
    source |= {"encoding": told_encoding} if told_encoding else {}
    source |= {"drop_bad_rows": True} if draw(st.booleans()) else {}
    known = told_encoding or "utf-8"
    clean = trouble == "none" and not odd and (separator == "," or told) and encoding.startswith(known)
    clean = clean and not any(sign in name for name in names for sign in _NOT_CLEAN)
    return File(
        "train.csv", content_bytes, source, {"type": kind, "label": "label"}, clean, f"csv, {style}, {trouble}",
        {"separator": separator, "encoding": known},
    )  # fmt: skip


CSV_TROUBLE = [
    "extra field", "extra field in all", "missing field", "repeated header", "no header", "header only",
    "space in header",
    "blank line", "empty row", "open quote", "cut", "byte", "label",
]  # fmt: skip


# ---- JSON ----

_STRANGE = [
    None, True, False, 0, 1, 1.0, 1.5, -0.0, 10**18, 2**63, 10**25, 1e10, 1e308, float("nan"), float("inf"), "", " ",
    "a", "1", "true",
    [], ["a"], [1], [[1]], {}, {"a": 1}, "\ud800", "\u0000", "2024-01-01", "2024-01-01T10:00:00Z",
]  # fmt: skip


@st.composite
def json_files(draw: DrawFn) -> File:
    """Rows with a label, a list of labels or a number, as JSON lines or as an array, and then perhaps damaged."""
    number = draw(st.integers(20, 30))
    odd = draw(st.sampled_from([False, False, True]))
    words = draw(texts(number, odd))
    kind = draw(
        st.sampled_from(
            ["sequence_classification", "sequence_classification", "multi_label_classification", "regression"]
        )
    )
    style, names = draw(labels(number))
    trouble = draw(st.sampled_from(["none"] * 5 + JSON_TROUBLE))
    task: dict[str, Any] = {"type": kind, "label": "label"}
    values: list[Any] = list(names)
    if kind == "sequence_classification":
        kinds = draw(st.sampled_from(["text", "text", "whole", "truth"]))
        if kinds == "whole":
            style, values = "whole numbers", [index % 3 for index in range(number)]
        elif kinds == "truth":
            style, values = "truths", [index % 2 == 0 for index in range(number)]
    elif kind == "regression":
        style, values = "numbers", [draw(st.sampled_from([index % 5, index % 5 + 0.5])) for index in range(number)]
    else:
        kinds = draw(st.sampled_from(["names", "names", "one-hot", "one-hot floats", "one-hot truths", "ids"]))
        distinct = sorted(set(names))
        if kinds == "names":
            values = [draw(st.lists(st.sampled_from(distinct), max_size=3)) for _ in range(number - 2)] + [
                [name] for name in distinct[:2]
            ]
        elif kinds == "ids":
            style, values = "ids", [[3 + index % 3, 7][: 1 + index % 2] for index in range(number)]
        else:
            on, off = {"one-hot": (1, 0), "one-hot floats": (1.0, 0.0), "one-hot truths": (True, False)}[kinds]
            style, values = (
                kinds,
                [[on if index % 3 == place else off for place in range(3)] for index in range(number)],
            )
            if draw(st.booleans()):
                task["labels"] = ["first", "second", "third"]
    if trouble == "label":
        values[draw(st.integers(0, number - 1))] = draw(st.sampled_from(_STRANGE))
    elif trouble == "several labels":
        for _ in range(5):
            values[draw(st.integers(0, number - 1))] = draw(st.sampled_from(_STRANGE))
    elif trouble == "item" and kind == "multi_label_classification":
        at = draw(st.integers(0, number - 1))
        values[at] = [*(values[at] or []), draw(st.sampled_from(_STRANGE))]
    rows: list[Any] = [
        {"id": f"r{index}", "text": text, "label": value}
        for index, (text, value) in enumerate(zip(words, values, strict=True))
    ]
    place = draw(st.integers(0, number - 1))
    if trouble == "text":
        rows[place]["text"] = draw(st.sampled_from(_STRANGE))
    elif trouble == "missing key":
        del rows[place][draw(st.sampled_from(["text", "label", "id"]))]
    elif trouble == "more keys":
        for row in rows[place:]:
            row["extra"] = draw(st.sampled_from(_STRANGE))
    elif trouble == "no object":
        rows[place] = draw(st.sampled_from(_STRANGE))
    elif trouble == "no label anywhere":
        for row in rows:
            row["label"] = None
    ascii_only = draw(st.booleans())
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    if trouble == "key twice":
        lines[place] = lines[place][:-1] + ', "label": ' + json.dumps(draw(st.sampled_from(_STRANGE[:10]))) + "}"
    ending = draw(st.sampled_from(["\n", "\n", "\r\n"]))
    array = draw(st.sampled_from([False, False, True]))
    content = f"[{(',' + ending).join(lines)}]" if array else ending.join(lines) + ending
    written = content.encode("utf-8", "surrogatepass")
    if trouble == "cut":
        written = written[: draw(st.integers(0, len(written)))]
    elif trouble == "byte":
        at = draw(st.integers(0, len(written)))
        written = (
            written[:at]
            + draw(st.sampled_from([b"\x00", b"\xff", b"}", b"{", b"\n", b"\r", b",", b'"', b"1"]))
            + written[at:]
        )
    elif trouble == "mark":
        written = b"\xef\xbb\xbf" + written
    elif trouble == "blank lines" and not array:
        written = written.replace(b"\n", b"\n\n")
    hot = style.startswith("one-hot") and "labels" not in task
    source: dict[str, Any] = {"path": "json", "text": "text"}
    source |= {"drop_bad_rows": True} if draw(st.booleans()) else {}
    clean = trouble in ("none", "blank lines") and not odd and not hot
    name = draw(st.sampled_from(["train.jsonl", "train.json"]))
    return File(name, written, source, task, clean, f"json, {kind}, {style}, {trouble}")


JSON_TROUBLE = [
    "label", "several labels", "item", "text", "missing key", "more keys", "no object", "no label anywhere",
    "key twice", "cut", "byte",
    "mark", "blank lines",
]  # fmt: skip


# ---- tags ----


def _iob1(tags: list[str]) -> list[str]:
    return [
        f"I-{tag[2:]}" if tag[0] == "B" and (index == 0 or tags[index - 1][2:] != tag[2:]) else tag
        for index, tag in enumerate(tags)
    ]


def _with_ends(tags: list[str], last: str, single: str) -> list[str]:
    found = []
    for index, tag in enumerate(tags):
        goes_on = index + 1 < len(tags) and tags[index + 1] == f"I-{tag[2:]}"
        found.append(tag if tag == "O" or goes_on else f"{single if tag[0] == 'B' else last}-{tag[2:]}")
    return found


SCHEMES = {
    "bio": lambda tags: tags,
    "iob1": _iob1,
    "bioes": lambda tags: _with_ends(tags, "E", "S"),
    "bilou": lambda tags: _with_ends(tags, "L", "U"),
    "suffix": lambda tags: [tag if tag == "O" else f"{tag[2:]}-{tag[0]}" for tag in tags],
    "underscore": lambda tags: [tag.replace("B-", "B_").replace("I-", "I_") for tag in tags],
    "lower": lambda tags: [tag if tag == "O" else tag[0].lower() + tag[1:].lower() for tag in tags],
}
BAD_TAGS = ["0", "", " ", "o", "O ", " B-PER", "B-", "-", "X", "B_PER", "PER", None, 0]


@st.composite
def tagged_files(draw: DrawFn) -> File:
    """Words with the tags of entities, in one of the schemes that tools write, or with parts of speech."""
    number = draw(st.integers(20, 26))
    rows, spans = [], []
    scheme = draw(st.sampled_from(["bio"] * 3 + list(SCHEMES) + ["words"]))
    for index in range(number):
        words: list[str] = []
        tags: list[str] = []
        for _ in range(draw(st.integers(1, 3))):
            words.append(draw(st.sampled_from(WORDS)))
            tags.append("O")
            if draw(st.booleans()) or index < 12:  # so many tags of entities that a few bad ones are few
                kind = TYPES[index % 3] if index < 12 else draw(st.sampled_from(TYPES))
                length = draw(st.integers(1, 3)) if index >= 12 else 2
                words += ["nina", "oslo", "rome"][:length]
                tags += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
        words.append(f"n{index}")
        tags.append("O")
        spans.append(bio_spans(tags))
        rows.append({"id": f"r{index}", "tokens": words, "tags": tags})
    if scheme == "words":
        for row in rows:
            row["tags"] = [["NOUN", "VERB", "DET", "X"][len(word) % 4] for word in row["tokens"]]
    else:
        for row in rows:
            row["tags"] = SCHEMES[scheme](row["tags"])
    trouble = draw(
        st.sampled_from(["none"] * 4 + ["tag", "tags", "length", "no list", "empty", "text", "word", "no tags"])
    )
    place = draw(st.integers(0, number - 1))
    row = rows[place]
    if trouble == "tag":
        row["tags"][draw(st.integers(0, len(row["tags"]) - 1))] = draw(st.sampled_from(BAD_TAGS))
    elif trouble == "tags":
        bad = draw(st.sampled_from(BAD_TAGS))
        for other in rows[:3]:
            other["tags"][-1] = bad
    elif trouble == "length":
        row["tags"] = row["tags"][:-1] if draw(st.booleans()) else [*row["tags"], "O"]
    elif trouble == "no list":
        row["tags"] = draw(st.sampled_from(["O", 0, {}, {"a": 1}]))
    elif trouble == "empty":
        row["tokens"], row["tags"] = [], []
    elif trouble == "text":
        row["tokens"] = draw(st.sampled_from(["a b", None, [None], [1], [["a"]], {}]))
    elif trouble == "word":
        row["tokens"][0] = draw(st.sampled_from(["", " ", None, 1, "a b", "\x00", "\u200b", "x" * 3000, "\ufeff"]))
    elif trouble == "no tags":
        row["tags"] = None
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    clean = trouble == "none" and scheme in ("bio", "words")
    source = {"path": "json", "text": "tokens"} | ({"drop_bad_rows": True} if draw(st.booleans()) else {})
    return File(
        "train.jsonl", content, source, {"type": "token_classification", "label": "tags"}, clean,
        f"tags, {scheme}, {trouble}", {"scheme": scheme}, spans if scheme != "words" else None,
    )  # fmt: skip


# ---- CoNLL ----


@st.composite
def conll_files(draw: DrawFn) -> File:
    """A word a line with two or four columns, an empty line after each sentence, and what tools add to that."""
    number = draw(st.integers(20, 26))
    columns = draw(st.sampled_from([2, 4]))
    gap = draw(st.sampled_from([" ", "\t"]))
    spans, blocks = [], []
    for index in range(number):
        words = [*draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3)), "oslo", f"n{index}"]
        tags = ["O"] * (len(words) - 2) + [
            f"B-{TYPES[index % 2]}",
            draw(st.sampled_from(["O", f"I-{TYPES[index % 2]}"])),
        ]
        spans.append(bio_spans(tags))
        middle = ["NN", "I-NP"] if columns == 4 else []
        blocks.append([gap.join([word, *middle, tag]) for word, tag in zip(words, tags, strict=True)])
    trouble = draw(st.sampled_from(["none"] * 4 + CONLL_TROUBLE))
    place = draw(st.integers(0, number - 1))
    if trouble == "comments":
        for index, block in enumerate(blocks):
            block[:0] = [f"# sent_id = {index}", "# text = " + " ".join(line.split(gap)[0] for line in block)]
    elif trouble == "header":
        blocks[0][:0] = [gap.join(HEADERS[columns == 4])]
    elif trouble == "no tag":
        blocks[place][0] = blocks[place][0].split(gap)[0]
    elif trouble == "document":
        blocks[place:place] = [[gap.join(["-DOCSTART-", *["-X-"] * (columns - 2), "O"])]]
    elif trouble == "more columns":
        blocks[place][0] += gap + "x"
    border = draw(st.sampled_from(["\n", "\n", "\n\n"])) if trouble != "space" else f"{gap}\n"
    content = "".join("".join(line + "\n" for line in block) + border for block in blocks)
    if trouble == "windows":
        content = content.replace("\n", "\r\n")
    written = content.encode()
    if trouble == "mark":
        written = b"\xef\xbb\xbf" + written
    elif trouble == "cut":
        written = written[: draw(st.integers(0, len(written)))]
    elif trouble == "byte":
        at = draw(st.integers(0, len(written)))
        written = written[:at] + draw(st.sampled_from([b"\x00", b"\xff", b" ", b"\t", b"\n", b"\r"])) + written[at:]
    names = ["tokens", "pos", "chunk", "tags"] if columns == 4 else ["tokens", "tags"]
    if trouble == "fewer names":
        names = ["tokens", "tags"] if columns == 4 else ["tokens", "pos", "tags"]
    source = {"path": "conll", "text": "tokens", "column_names": names}
    if draw(st.booleans()):
        source["delimiter"] = gap
    return File(
        draw(st.sampled_from(["train.conll", "train.txt"])), written, source, {"type": "token_classification",
        "label": "tags"},
        trouble in ("none", "document", "windows", "space"), f"conll, {columns} columns, {trouble}",
        {"scheme": "bio"}, spans,
    )  # fmt: skip


CONLL_TROUBLE = [
    "comments",
    "header",
    "no tag",
    "document",
    "more columns",
    "windows",
    "mark",
    "space",
    "cut",
    "byte",
    "fewer names",
]


# ---- Parquet ----


@st.composite
def parquet_files(draw: DrawFn) -> File:
    """Typed columns, and perhaps a file that was cut off; the rows are those that were written."""
    number = draw(st.integers(20, 30))
    words: list[Any] = draw(texts(number, False))
    style, names = draw(labels(number))
    kind = draw(st.sampled_from(["sequence_classification", "multi_label_classification", "regression"]))
    values: list[Any] = list(names)
    held: Any = draw(st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]))
    if kind == "multi_label_classification":
        values, held = [[name] * (index % 2) for index, name in enumerate(names)], pa.list_(pa.string())
    elif kind == "regression":
        style, held = "numbers", draw(st.sampled_from([pa.float64(), pa.float32(), pa.int64(), pa.int8(), pa.uint64()]))
        values = [index % 5 for index in range(number)]
    elif draw(st.booleans()):
        style, held = "whole numbers", draw(st.sampled_from([pa.int64(), pa.int16(), pa.uint8(), pa.bool_()]))
        values = [index % 2 if held != pa.bool_() else index % 2 == 0 for index in range(number)]
    trouble = draw(st.sampled_from(["none", "none", "no label", "no text", "number", "cut", "other kind"]))
    place = draw(st.integers(0, number - 1))
    if trouble == "no label":
        values[place] = None
    elif trouble == "no text":
        words[place] = draw(st.sampled_from([None, "", " "]))
    elif trouble == "number" and kind == "regression" and pa.types.is_floating(held):
        values[place] = draw(st.sampled_from([float("nan"), float("inf"), 1e308 if held == pa.float64() else 0.0]))
    elif trouble == "other kind":
        other = draw(st.sampled_from([(b"x", pa.binary()), ({"a": 1}, pa.struct({"a": pa.int8()})), ([[1]], None)]))
        values, held = [other[0]] * number, other[1]
    rows = {"id": [f"r{index}" for index in range(number)], "text": words}
    sink = io.BytesIO()
    parquet.write_table(pa.table(rows | {"label": pa.array(values, type=held)}), sink)
    content = sink.getvalue()
    if trouble == "cut":
        content = content[: draw(st.integers(0, len(content) - 1))]
    source = {"path": "parquet", "text": "text"} | ({"drop_bad_rows": True} if draw(st.booleans()) else {})
    written = [dict(zip(("id", "text", "label"), row, strict=True)) for row in zip(*rows.values(), values, strict=True)]
    return File(
        "train.parquet", content, source, {"type": kind, "label": "label"}, trouble in ("none", "no label"),
        f"parquet, {kind}, {style}, {trouble}", rows=None if trouble == "cut" else written,
    )  # fmt: skip


# ---- compressed ----


@st.composite
def compressed_files(draw: DrawFn) -> File:
    """One of those above, gzipped, and perhaps cut off or damaged."""
    file = draw(st.one_of(csv_files(), json_files()))
    content = gzip.compress(file.content, mtime=0)
    how = draw(st.sampled_from(["whole", "cut", "byte"]))
    if how == "cut":
        content = content[: draw(st.integers(0, len(content) - 1))]
    elif how == "byte":
        at = draw(st.integers(0, len(content) - 1))
        content = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
    clean = file.clean and how == "whole"
    return File(
        file.name + ".gz",
        content,
        file.source,
        file.task,
        clean,
        f"{file.about}, gzip {how}",
        file.reading | {"gzip": how},
    )
