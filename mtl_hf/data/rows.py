"""Encode raw rows: token ids, the first token of each word, label ids.

Notable: rows are encoded in batches and cached by content (rows, tokenizer, `max_length` and vocabularies), so a second
run, another process or another config on the same data does not encode them again. Truncated rows are counted.
"""

import collections
import hashlib
import json
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.utils import tqdm
from transformers import PreTrainedTokenizerBase

from ..modeling.encoding import SEGMENTED, encode
from ..modeling.tags import NO_TOKEN, bio_spans
from ..modeling.windows import WINDOWED
from ..tasks import SourceData, TaskData
from ..tasks.arrow_columns import column_of, table_of
from ..tasks.source_data import join_columns
from ..tasks.task_type import flat
from .collator import LABEL_PREFIX, labelled_rows
from .row_files import cached_beside

logger = logging.getLogger(__name__)

INTEGERS = datasets.List(datasets.Value("int32"))
_BATCH = 1000  # rows that are encoded at once
_ENCODING_VERSION = 3  # increase it when `encode_rows` returns other rows for the same input: old caches are ignored

# Tokenizer → its size, and its settings that affect its output.
_STATES: weakref.WeakKeyDictionary[Any, tuple[int, str]] = weakref.WeakKeyDictionary()
_SCHEMAS: dict[str, pa.Schema] = {}  # features → their schema, which is slow to make for each of many sources


@dataclass
class EncodedSplit:
    """Encoded rows of one source with their labels.

    Attributes:
        rows: Result of `encode_rows`.
        gold: Task → label of each row as names, None for missing ones.
        texts: Row numbers → their raw texts.
        strings: Row numbers → the strings that its words come from, each with the spans of its words
            (`modeling.words.split_words`); None if its texts are lists of words.
    """

    rows: datasets.Dataset
    gold: dict[str, Sequence[Any]]
    texts: Callable[[Sequence[int]], list[Any]] | None = None
    strings: Callable[[Sequence[int]], list[tuple[str, list[tuple[int, int]]]]] | None = None


def encode_rows(
    source: SourceData,
    split: str,
    tasks: Mapping[str, TaskData],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int | None = None,
) -> datasets.Dataset:
    """Encode a split of a source, in batches, cached by content (in the `datasets` cache, if the rows are from it).

    Args:
        source: The source.
        split: The split.
        tasks: All tasks, of which those that use the source are encoded.
        tokenizer: A tokenizer from `load_tokenizer`.
        max_length: Maximum number of tokens of a segment.
        stride: Tokens that neighbouring windows of a long text share; None to truncate (`encoding.encode`).

    Returns:
        For each row `input_ids`, `token_type_ids` if the encoder uses them, `cut` (whether it was truncated),
        `word_starts` for words, `segments` (number of tokens of each segment) if rows can have several, `offsets` and
        `word_ids` (-1 for special tokens) if a head needs them; and in the training split (for some types in every
        split) one label column per task.
    """
    readers = {name: task for name, task in tasks.items() if source.name in task.config.sources}
    form = next((task.form for task in readers.values() if task.form in SEGMENTED), source.form)
    for task in readers.values():
        task.kind.check_tokenizer(task, tokenizer)
    labelled = {name: task for name, task in readers.items() if split == "train" or task.kind.labels_every_split}
    word_ids = any(task.kind.needs_word_ids(task.options) for task in readers.values())
    kept_ids = any(task.kind.reads_word_ids(task.options) for task in readers.values())
    offsets = any(task.kind.head.offsets for task in readers.values())
    features: dict[str, Any] = {"input_ids": INTEGERS, "cut": datasets.Value("bool")}
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = INTEGERS
    if form == "words":
        features["word_starts"] = INTEGERS
    if form in SEGMENTED or (stride is not None and form in WINDOWED):
        features["segments"] = INTEGERS
    if offsets:
        features["offsets"] = datasets.List(INTEGERS)
    if kept_ids:
        features["word_ids"] = INTEGERS
    features |= {LABEL_PREFIX + name: task.kind.feature() for name, task in labelled.items()}
    gold = source.gold[split]
    rows = source.splits[split]

    def encode_batches(schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        columns = [column_of(rows, column) for column in source.columns]
        with tqdm(total=len(rows), unit=" rows", desc=f"Encoding {source.name} {split}") as bar:
            for begin in range(0, len(rows), _BATCH):
                texts = join_columns(source.form, [column.slice(begin, _BATCH).to_pylist() for column in columns])
                found: dict[str, Any] = encode(
                    tokenizer,
                    texts,
                    form=form,
                    max_length=max_length,
                    stride=stride,
                    word_ids=word_ids or kept_ids,
                    offsets=offsets,
                )
                for name, task in labelled.items():
                    labels = gold[name][begin : begin + len(texts)]
                    found[LABEL_PREFIX + name] = task.kind.encode_labels(task, labels, found, tokenizer)
                if kept_ids:
                    found["word_ids"] = _without_nulls(found["word_ids"])
                arrays = [_as_arrow(found[field.name], field.type) for field in schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)
                bar.update(len(texts))

    readable = {
        name: [task.type, task.labels, task.config.column, task.config.labels, task.kind.facts(task)]
        for name, task in readers.items()
    }
    key = json.dumps(
        [_ENCODING_VERSION, rows._fingerprint, _tokenizer_state(tokenizer), form, source.columns, max_length,
         tokenizer.truncation_side, sorted(features), readable, word_ids, sorted(tokenizer.all_special_ids),
         *([] if stride is None else [stride])]
    )  # fmt: skip
    fingerprint = hashlib.sha256(key.encode()).hexdigest()[:32]

    def make() -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        schema = _arrow_schema(features)
        return schema, encode_batches(schema)

    what = f"Source {source.name}, {split}: the encoded rows"
    return cached_beside(rows, fingerprint, make, lambda _: len(rows), what)


def _arrow_schema(features: dict[str, Any]) -> pa.Schema:
    key = repr(features)
    if key not in _SCHEMAS:
        _SCHEMAS[key] = datasets.Features(features).arrow_schema
    return _SCHEMAS[key]


def _as_arrow(values: Any, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def _without_nulls(rows: list[list[int | None]]) -> pa.Array:
    """Lists of numbers with -1 instead of None."""
    array = pa.array(rows, pa.list_(pa.int32()))
    return pa.ListArray.from_arrays(array.offsets, array.values.fill_null(-1))


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """The settings of a tokenizer that affect its output, without truncation and padding of the last call."""
    size = len(tokenizer)
    known = _STATES.get(tokenizer)
    if known is None or known[0] != size:
        if tokenizer.is_fast:
            state = tokenizer.backend_tokenizer.to_str().partition('"added_tokens"')[2]  # truncation, padding: before
        else:
            state = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
        known = _STATES[tokenizer] = (size, hashlib.sha256(state.encode()).hexdigest())
    return known[1]


def trainable_rows(source: str, encoded: datasets.Dataset, tasks: Mapping[str, TaskData]) -> datasets.Dataset:
    """Select the training rows with at least one labelled item after truncation, and warn about the others.

    Args:
        source: Name of the source.
        encoded: Result of `encode_rows` for the training split.
        tasks: The tasks that are trained.

    Raises:
        ValueError: No row has a label of a task of this source.
    """
    readers = {name: task for name, task in tasks.items() if source in task.config.sources}
    useful = np.zeros(len(encoded), dtype=bool)
    whole = table_of(encoded)
    for begin in range(0, len(encoded), 1000):
        table = whole.slice(begin, 1000)
        segments = flat(table["segments"]) if "segments" in table.column_names else None
        lengths = pc.list_value_length(table["input_ids"]).to_numpy() if segments is None else segments[0]
        for name, task in readers.items():
            labels = table[LABEL_PREFIX + name]
            _, known = task.kind.collate(labels, table, (len(lengths), int(lengths.max(initial=0))))
            useful[begin : begin + 1000] |= labelled_rows(known, segments and segments[1])
    if useful.all():
        return encoded
    logger.warning("Source %s: %d of %d training rows have no label of any task and are left out.",
                   source, (~useful).sum(), len(useful))  # fmt: skip
    if not useful.any():
        raise ValueError(f"`sources.{source}`: no training row has a label of any of its tasks.")
    return encoded.select(np.flatnonzero(useful))


def report_cut(
    source: SourceData, split: str, encoded: datasets.Dataset, tasks: Mapping[str, TaskData]
) -> dict[str, int]:
    """Count and log truncated rows, words without tokens, and entities with such words.

    Returns:
        `rows_cut`, `words_lost` (truncated, or dropped by the tokenizer) and `entities_lost` (with any word lost).
    """
    counts = {"rows_cut": pc.sum(column_of(encoded, "cut")).as_py() or 0, "words_lost": 0, "entities_lost": 0}
    if "word_starts" in encoded.column_names:
        starts, lengths = flat(column_of(encoded, "word_starts"))
        lost = np.flatnonzero(starts == NO_TOKEN)
        counts["words_lost"] = len(lost)
        ends = np.cumsum(lengths)
        rows = np.searchsorted(ends, lost, side="right")
        lost_words: dict[int, set[int]] = collections.defaultdict(set)
        for row, word in zip(rows.tolist(), (lost - (ends - lengths)[rows]).tolist(), strict=True):
            lost_words[row].add(word)
        spans = [source.gold[split][name] for name, task in tasks.items() if task.spans and name in source.gold[split]]
        for row, words in lost_words.items():
            for tags in spans:
                for _, begin, end in bio_spans(tags[row] or ()):
                    counts["entities_lost"] += not words.isdisjoint(range(begin, end))
    if source.form in WINDOWED and "segments" in encoded.column_names:
        _, numbers = flat(column_of(encoded, "segments"))
        if several := int((numbers > 1).sum()):
            logger.info("Source %s, %s: %s of %s rows are read in several windows; all rows have %s windows.",
                        source.name, split, f"{several:,}", f"{len(encoded):,}", f"{numbers.sum():,}")  # fmt: skip
    if any(counts.values()):
        ending = f"; {counts['words_lost']} words are lost, which breaks {counts['entities_lost']} entities"
        logger.warning(
            "Source %s, %s: %d of %d rows are truncated to max_length%s.",
            source.name, split, counts["rows_cut"], len(encoded),
            ending if source.form == "words" else "",
        )  # fmt: skip
    return counts
