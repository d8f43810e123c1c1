"""Raw rows → encoded rows: token ids, where each word begins, label ids.

Notable: encoded in batches and cached by content, that is by the rows, the tokenizer, the cut and the vocabularies, so
a second run, another process or another config on the same data encodes nothing. What the encoder will never see is
counted.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from ..modeling.encoding import SEGMENTED, encode
from ..modeling.tags import NO_TOKEN, bio_spans
from ..tasks import SourceData, TaskData
from ..tasks.source_data import join_columns
from .collator import LABEL_PREFIX
from .row_files import read_cached

logger = logging.getLogger(__name__)

INTEGERS = datasets.List(datasets.Value("int32"))
_ENCODING_VERSION = 3  # raise it when `encode_rows` gives other rows for the same input: old caches are then not read


@dataclass
class EncodedSplit:
    """Encoded rows of one source with what they are scored against.

    Attributes:
        rows: As `encode_rows` returns them.
        gold: Task → label of each row as names, None where it has none.
        texts: Rows → their raw texts.
    """

    rows: datasets.Dataset
    gold: dict[str, list[Any]]
    texts: Callable[[Sequence[int]], list[Any]] | None = None


def encode_rows(
    source: SourceData,
    split: str,
    tasks: Mapping[str, TaskData],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> datasets.Dataset:
    """Encode a split of a source, in batches, cached by content (where `datasets` caches what the rows came from).

    Args:
        source: The source.
        split: Its split.
        tasks: All tasks; those that read the source count.
        tokenizer: As `load_tokenizer` returns it.
        max_length: Longest segment in tokens.

    Returns:
        A row for each row: `input_ids`, perhaps `token_type_ids`, `cut`, for words `word_starts`, for rows of several
        segments `segments` (how many tokens each has, in the order of `input_ids`), for heads that need them `offsets`,
        and in the training split a label column a task, as its type encodes labels; for some types in every split.
    """
    readers = {name: task for name, task in tasks.items() if source.name in task.config.sources}
    form = next((task.form for task in readers.values() if task.form in SEGMENTED), source.form)
    for task in readers.values():
        task.kind.check_tokenizer(task, tokenizer)
    labelled = {name: task for name, task in readers.items() if split == "train" or task.kind.labels_every_split}
    word_ids = any(task.kind.needs_word_ids(task.options) for task in readers.values())
    offsets = any(task.kind.head.offsets for task in readers.values())
    features: dict[str, Any] = {"input_ids": INTEGERS, "cut": datasets.Value("bool")}
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = INTEGERS
    if form == "words":
        features["word_starts"] = INTEGERS
    if form in SEGMENTED:
        features["segments"] = INTEGERS
    if offsets:
        features["offsets"] = datasets.List(INTEGERS)
    features |= {LABEL_PREFIX + name: task.kind.feature() for name, task in labelled.items()}
    gold = source.gold[split]
    rows = source.splits[split]

    def encode_batch(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        texts = join_columns(source.form, [batch[column] for column in source.columns])
        encoded = encode(tokenizer, texts, form=form, max_length=max_length, word_ids=word_ids, offsets=offsets)
        labels = {
            LABEL_PREFIX + name: task.kind.encode_labels(task, [gold[name][row] for row in indices], encoded, tokenizer)
            for name, task in labelled.items()
        }
        encoded.pop("word_ids", None)
        return encoded | labels

    readable = {
        name: [task.type, task.labels, task.config.label, task.config.labels, task.kind.facts(task)]
        for name, task in readers.items()
    }
    key = json.dumps(
        [_ENCODING_VERSION, rows._fingerprint, _tokenizer_state(tokenizer), form, source.columns, max_length,
         tokenizer.truncation_side, sorted(features), readable, word_ids, sorted(tokenizer.all_special_ids)]
    )  # fmt: skip
    encode_all = functools.partial(
        rows.map,
        encode_batch,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        features=datasets.Features(features),
        new_fingerprint=hashlib.sha256(key.encode()).hexdigest()[:32],
        desc=f"Encoding {source.name} {split}",
    )
    folder = Path(rows.cache_files[0]["filename"]).parent if rows.cache_files else "memory"
    return read_cached(
        encode_all,
        lambda found: "" if len(found) == len(rows) else f"{len(found):,} of {len(rows):,} rows",
        functools.partial(encode_all, load_from_cache_file=False),
        f"Source {source.name}, {split}: the encoded rows that are cached in {folder}",
    )


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    """What decides a tokenizer's output, without what the last call has left in it."""
    if not tokenizer.is_fast:
        return json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("truncation", None)
    state.pop("padding", None)
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def trainable_rows(source: str, encoded: datasets.Dataset, tasks: Mapping[str, TaskData]) -> datasets.Dataset:
    """The encoded training rows with at least one labelled item that reaches the encoder; warns of how many have none.

    Args:
        source: Name of their source.
        encoded: As `encode_rows` returns them for the training split.
        tasks: Those that are trained.

    Raises:
        ValueError: No row has a label of a task that reads the source.
    """
    readers = {name: task for name, task in tasks.items() if source in task.config.sources}
    useful = np.zeros(len(encoded), dtype=bool)
    rows = encoded.with_format("arrow")
    for begin in range(0, len(encoded), 1000):
        table = rows[begin : begin + 1000]
        lengths = pc.list_value_length(table["input_ids"]).to_numpy()
        for name, task in readers.items():
            labels = table[LABEL_PREFIX + name]
            _, known = task.kind.collate(labels, table, (len(table), int(lengths.max(initial=0))))
            useful[begin : begin + 1000] |= known if known.ndim == 1 else known.any(1)
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
    """Count and log what never reaches the encoder: rows cut at `max_length`, words without a token, entities hurt.

    Returns:
        `rows_cut`, `words_lost` (cut, or nothing left of them by the tokenizer) and `entities_lost` (any word lost).
    """
    counts = {"rows_cut": int(np.sum(encoded["cut"])), "words_lost": 0, "entities_lost": 0}
    if "word_starts" in encoded.column_names:
        for row, starts in enumerate(encoded["word_starts"]):
            lost = {word for word, start in enumerate(starts) if start == NO_TOKEN}
            if not lost:
                continue
            counts["words_lost"] += len(lost)
            for name, task in tasks.items():
                tags = source.gold[split][name][row] if task.spans and name in source.gold[split] else None
                for _, begin, end in bio_spans(tags or ()):
                    counts["entities_lost"] += any(word in lost for word in range(begin, end))
    if any(counts.values()):
        words = f"; {counts['words_lost']} words never reach it, which breaks {counts['entities_lost']} entities"
        logger.warning(
            "Source %s, %s: %d of %d rows are cut at max_length for the encoder%s.",
            source.name, split, counts["rows_cut"], len(encoded),
            words if source.form == "words" else "",
        )  # fmt: skip
    return counts
