"""Raw rows → encoded rows: token ids, where each word begins, label ids.

Notable: encoded in batches and cached by content, that is by the rows, the tokenizer, the cut and the vocabularies, so
a second run, another process or another config on the same data encodes nothing. What the encoder will never see is
counted.
"""

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from ..modeling.tags import bio_spans
from ..modeling.encoding import NO_TOKEN, encode
from ..modeling.head import IGNORE_INDEX
from .collator import LABEL_PREFIX
from .labels import TaskData
from .masking import mask_units, masking_of
from .row_files import read_cached
from .sources import SourceData

logger = logging.getLogger(__name__)

_ENCODING_VERSION = 2  # raise it when `encode_rows` gives other rows for the same input: old caches are then not read


@dataclass
class EncodedSplit:
    """Encoded rows of one source with what they are scored against.

    Attributes:
        rows: As `encode_rows` returns them.
        gold: Task → label of each row as names, None where it has none.
        second_texts: Of texts that the encoder reads apart, a number for each row's second text, the same for equal
            ones.
    """

    rows: datasets.Dataset
    gold: dict[str, list[Any]]
    second_texts: np.ndarray | None = None


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
        max_length: Longest input in tokens.

    Returns:
        A row for each row: `input_ids`, perhaps `token_type_ids`, `cut`, for words `word_starts`, for texts that the
        encoder reads apart `second` (where the second begins in `input_ids`, which holds both), and in the training
        split a label column a task (ids; multi-hot; numbers), `-100` or NaN where absent; for masked language modelling
        in every split, and it says where there can be masks (`masking.mask_units`).
    """
    readers = {name: task for name, task in tasks.items() if source.name in task.config.sources}
    with_labels = split == "train"
    rows = source.splits[split]
    form = "apart" if any(task.form == "apart" for task in readers.values()) else source.form
    masked = {name: task for name, task in readers.items() if task.type == "masked_lm"}
    for task in masked.values():
        masking_of(task, tokenizer)  # or says why not
    whole_words = any(task.config.whole_word_mask for task in masked.values())
    special = frozenset(tokenizer.all_special_ids)
    int_list = datasets.List(datasets.Value("int32"))
    features: dict[str, Any] = {"input_ids": int_list, "cut": datasets.Value("bool")}
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = int_list
    if source.form == "words":
        features["word_starts"] = int_list
    if form == "apart":
        features["second"] = datasets.Value("int32")
    label_features = {
        "sequence_classification": datasets.Value("int32"),
        "multi_label_classification": datasets.List(datasets.Value("int8")),
        "regression": datasets.Value("float64"),
        "token_classification": int_list,
        "sentence_similarity": datasets.Value("float64"),
        "masked_lm": datasets.List(datasets.Value("int8")),
    }
    gold = source.gold[split]
    labelled = readers if with_labels else masked
    features |= {LABEL_PREFIX + name: label_features[task.type] for name, task in labelled.items()}

    def encode_batch(batch: dict[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        texts = [batch[column] for column in source.columns]
        encoded = encode(
            tokenizer,
            list(zip(*texts, strict=True)) if source.form == "pair" else texts[0],
            form=form,
            max_length=max_length,
            word_ids=whole_words,
        )
        word_ids = encoded.pop("word_ids", [None] * len(indices))
        for name, task in labelled.items():
            encoded[LABEL_PREFIX + name] = [
                mask_units(encoded["input_ids"][row], word_ids[row], special)
                if name in masked
                else _label_ids(task, gold[name][index], batch[source.columns[0]][row])
                for row, index in enumerate(indices)
            ]
        return encoded

    readable = {
        name: [task.type, task.labels, task.config.bio, task.config.label, task.config.score_range]
        for name, task in readers.items()
    }
    key = json.dumps(
        [_ENCODING_VERSION, rows._fingerprint, _tokenizer_state(tokenizer), form, source.columns, max_length,
         tokenizer.truncation_side, sorted(features), readable if with_labels else None,
         [task.config.labels for task in readers.values()], [whole_words, sorted(special)] if masked else None]
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


def _label_ids(task: TaskData, label: Any, text: Any) -> Any:
    """One row's label as the collator wants it; a name that a trained model does not know counts as absent."""
    ids = task.ids
    if task.type in ("regression", "sentence_similarity"):
        return float("nan") if label is None else label
    if task.type == "sequence_classification":
        return IGNORE_INDEX if label is None else ids.get(label, IGNORE_INDEX)
    if task.type == "multi_label_classification":
        if label is None:
            return [IGNORE_INDEX] * len(ids)
        return [int(name in label) for name in task.labels]
    return [IGNORE_INDEX if tag is None else ids.get(tag, IGNORE_INDEX) for tag in (label or [None] * len(text))]


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
    table = encoded.with_format("arrow")[:]
    useful = np.zeros(len(encoded), dtype=bool)
    for name, task in readers.items():
        labels = table[LABEL_PREFIX + name].combine_chunks()
        if task.type in ("token_classification", "masked_lm"):
            kept = labels.flatten().to_numpy() != IGNORE_INDEX
            if task.type == "token_classification":
                kept &= table["word_starts"].combine_chunks().flatten().to_numpy() != NO_TOKEN
            useful |= np.bincount(np.repeat(np.arange(len(encoded)), np.diff(labels.offsets)), kept, len(encoded)) > 0
        elif task.type == "multi_label_classification":
            useful |= labels.flatten().to_numpy().reshape(len(encoded), -1)[:, 0] != IGNORE_INDEX
        else:
            values = labels.to_numpy(zero_copy_only=False)
            useful |= ~np.isnan(values) if values.dtype.kind == "f" else values != IGNORE_INDEX
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
    if source.form == "words":
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
