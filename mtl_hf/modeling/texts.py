"""Predictions for raw texts: how they are batched, tokenized, run through the model and decoded.

Notable: texts are read in chunks, so that a stream of any length can be predicted, and within a chunk texts of similar
length share a batch. Each head reads texts in the form of its training texts (`encoding.FORMS`) and decodes its own
outputs. The model's `row_outputs` runs each batch.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from .encoding import FORMS, KINDS, SINGLE, check_text, encode, kind_of
from .windows import WINDOW
from .words import splitter, words_of

logger = logging.getLogger(__name__)

EMBEDDING = "embedding"  # key of the embedding in the results of `predict`, beside the tasks
CUT = "cut"  # key of the results, true for texts that were truncated
MOST_CHARACTERS = 2**20  # per chunk: a tokenizer keeps what it truncates until the chunk is done

# What can be computed for a text: names of heads, and None for its embedding.
Readers = list[str | None]


def answer_stream(
    model: Any,
    texts: Iterable[Any],
    requested: Readers,
    *,
    batch_size: int,
    top_k: int | Sequence[int | None] | None,
    bar: Any,
    report: Callable[[list[str], str], None],
) -> Iterator[dict[str, Any]]:
    """Yield the predictions for each text, in the order of the texts, with `"cut": True` for truncated texts.

    Args:
        model: A `MultiTaskModel`.
        texts: Strings, lists of words or pairs, checked as they are read.
        requested: Heads in the order of the results, and None for the embedding.
        batch_size: Texts per batch.
        top_k: As in `Head.answer`; or one for each text.
        bar: A progress bar, updated when texts have their first prediction, and closed at the end.
        report: Called at the end with the heads that could not read any of the texts, and the reason. Not called if
            there are none.

    Raises:
        ValueError: An item is not a text; raised when the item is read.
    """
    readers: dict[str, Readers] = {form: [] for form in FORMS}
    for name in requested:
        for form in ("string", "pair") if name is None else (model.config.heads[name]["text"],):
            readers[form].append(name)
    unanswered, kinds = [name for name in requested if name is not None], set()
    num_texts = num_cut = num_unread = num_tokens = 0
    with bar:
        for chunk in _chunks(texts, batch_size):
            kinds |= {kind_of(text) for text in chunk}
            own = top_k[num_texts : num_texts + len(chunk)] if isinstance(top_k, Sequence) else [top_k] * len(chunk)
            num_texts += len(chunk)
            answers, cut, unread = _answer(model, chunk, readers, batch_size, own, bar)
            num_cut += sum(cut)
            num_unread += sum(number for number, _ in unread)
            num_tokens += sum(number for _, number in unread)
            for found, was_cut in zip(answers, cut, strict=True):
                unanswered = [name for name in unanswered if name not in found]
                answered = {name or EMBEDDING: found[name] for name in requested if name in found}
                if was_cut:
                    answered.setdefault(CUT, True)  # a head may have that name; the count is logged in any case
                yield answered
    report_cut(num_cut, num_texts, model.config.max_length, num_unread, num_tokens)
    if kinds and unanswered:
        others = sorted(kinds - {SINGLE})
        report(
            unanswered,
            f"they do not read {' or '.join(others)}"
            if others
            else "they read only pairs (tuples; on the command line, two texts with a tab between them)",
        )


def report_cut(num_cut: int, num_texts: int, max_length: int, num_unread: int = 0, num_tokens: int = 0) -> None:
    """Log how many texts were truncated, if any, and how many of their tokens were not read, if known.

    Args:
        num_cut: Number of truncated texts.
        num_texts: Number of texts.
        max_length: Length to which they were truncated.
        num_unread: Number of tokens that were not read.
        num_tokens: Number of all tokens of the truncated texts.
    """
    if num_cut:
        lost = f"; {num_unread:,} of their {num_tokens:,} tokens were not read" if num_unread else ""
        logger.warning("%s of %s texts were truncated to %d tokens%s.",
                       f"{num_cut:,}", f"{num_texts:,}", max_length, lost)  # fmt: skip


def _chunks(texts: Iterable[Any], batch_size: int) -> Iterator[list[Any]]:
    """Split a stream into chunks of checked texts: first one batch, then more; fewer texts if they are very long."""
    chunk: list[Any] = []
    limit, size = batch_size, 0
    for number, text in enumerate(texts, start=1):
        chunk.append(check_text(text, number))
        size += len(text) if isinstance(text, str) else sum(map(len, text))
        if len(chunk) == limit or size > MOST_CHARACTERS:
            yield chunk
            chunk, size = [], 0
            limit = min(2 * limit, 64 * batch_size) if batch_size > 1 else 1
    if chunk:
        yield chunk


@torch.no_grad()
def _answer(
    model: Any, texts: list[Any], readers: dict[str, Readers], batch_size: int, top_k: Sequence[int | None], bar: Any
) -> tuple[list[dict[str | None, Any]], list[bool], list[tuple[int, int]]]:
    """The predictions for each text of a chunk (reader → prediction), whether it was truncated, and its unread tokens.

    The tokens of a truncated text are (number not read, number of all), (0, 0) if not known.
    """
    found: list[dict[str | None, Any]] = [{} for _ in texts]
    cut, unread = [False] * len(texts), [(0, 0)] * len(texts)
    split = splitter(model.config.word_rules)
    words = {row: words_of(text, split) for row, text in enumerate(texts) if kind_of(text) == SINGLE}
    for rows, encoded, names in _readings(model, texts, words, readers):
        for place, row in enumerate(rows):
            cut[row] = cut[row] or encoded["cut"][place]
            if number := encoded["unread"][place]:
                unread[row] = number, number + len(encoded["input_ids"][place])
        for positions, batch in padded_batches(model, encoded, batch_size):
            chosen = [rows[position] for position in positions]
            bar.update(sum(not found[row] for row in chosen))
            with model.evaluating():
                outputs = model.row_outputs(batch, names)
            columns = {key: [column[position] for position in positions] for key, column in encoded.items()}
            for name, output in outputs.items():
                by_row = output.float().cpu().numpy()
                if name is None:
                    answers: Any = by_row.tolist()
                else:
                    head = model.heads[name]
                    answers = (
                        head.answer(prediction, *words.get(row, (texts[row],)), top_k=top_k[row])
                        for row, prediction in zip(chosen, head.decode(by_row, columns), strict=True)
                    )
                for row, one in zip(chosen, answers, strict=True):
                    found[row][name] = one
    return found, cut, unread


def _readings(
    model: Any, texts: list[Any], words: dict[int, tuple[str, Any]], readers: dict[str, Readers]
) -> Iterator[tuple[list[int], dict[str, list[Any]], Readers]]:
    """Yield (row numbers, these rows encoded, their readers): one encoder pass each.

    Args:
        model: A `MultiTaskModel`.
        texts: One chunk.
        words: Row → its text with the spans of its words, for single texts.
        readers: Form → readers of texts in this form.
    """
    for form, names in readers.items():
        others = [row for row, text in enumerate(texts) if row not in words and kind_of(text) == KINDS[form]]
        if others and names:
            yield others, encode_texts(model, [texts[row] for row in others], form, names), names
    rows, read = list(words), {}
    if readers["words"]:
        split = [[text[start:end] for start, end in spans] for text, spans in words.values()]
        read["words"] = encode_texts(model, split, "words", readers["words"])
    if readers["string"]:
        read["string"] = encode_texts(model, [text for text, _ in words.values()], "string")
    if len(read) == 2:  # most texts have the same tokens in both forms: one pass is enough
        ids = zip(read["words"]["input_ids"], read["string"]["input_ids"], strict=True)
        equal = [one == other for one, other in ids]
        both = [row for row, same in zip(rows, equal, strict=True) if same]
        yield both, _pick(read["words"], equal), readers["words"] + readers["string"]
        differ = [not same for same in equal]
        rows = [row for row, same in zip(rows, equal, strict=True) if not same]
        read = {form: _pick(encoded, differ) for form, encoded in read.items()}
    for form, encoded in read.items():
        yield rows, encoded, readers[form]


def _pick(encoded: dict[str, list[Any]], wanted: list[bool]) -> dict[str, list[Any]]:
    """Select rows of encoded texts."""
    return {key: [row for row, yes in zip(rows, wanted, strict=True) if yes] for key, rows in encoded.items()}


def encode_texts(model: Any, texts: list[Any], form: str, readers: Readers = ()) -> dict[str, list[Any]]:  # type: ignore[assignment]
    """Encode any number of texts, also none, with the tokenizer and `max_length` of a model (`encoding.encode`).

    Args:
        model: A `MultiTaskModel`.
        texts: The texts.
        form: One of `encoding.FORMS`.
        readers: Readers of the texts; some heads need the character offsets of tokens, or their words.
    """
    if not texts:
        return {"input_ids": [], "cut": [], "unread": []}
    heads = [model.heads[name] for name in readers if name is not None]
    config = model.config
    return encode(
        model.tokenizer, texts, form=form, max_length=config.max_length, stride=config.window_stride,
        word_ids=any(head.word_ids for head in heads), offsets=any(head.offsets for head in heads),
    )  # fmt: skip


def padded_batches(
    model: Any, encoded: dict[str, list[Any]], batch_size: int
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Yield (positions in `encoded`, padded batch on the model's device), longest texts first.

    Args:
        model: A `MultiTaskModel`.
        encoded: Result of `encode_texts`.
        batch_size: Texts per batch. A text with several segments has several rows in the batch; `num_segments` has
            their number for each text. Of texts that are read in windows, a batch has at most so many windows, or one
            text.
    """
    keys: set[str] = encoded.keys() & {"input_ids", "token_type_ids"}
    order = sorted(range(len(encoded["input_ids"])), key=lambda position: -len(encoded["input_ids"][position]))
    in_windows = model.config.overflow == WINDOW and "segments" in encoded
    sizes = [len(encoded["segments"][position]) if in_windows else 1 for position in order]
    for positions in _groups(order, sizes, batch_size):
        rows = {key: [encoded[key][position] for position in positions] for key in keys}
        lengths = [encoded["segments"][position] for position in positions] if "segments" in encoded else None
        if lengths is not None:
            rows = {key: [part for row, own in zip(column, lengths, strict=True) for part in _cut_up(row, own)]
                    for key, column in rows.items()}  # fmt: skip
        # A text without any token, not even special ones, becomes one padding token.
        some = bool(rows["input_ids"][0])
        padded = model.tokenizer.pad(
            rows, padding=some or "max_length", max_length=None if some else 1, return_tensors="pt",
            padding_side="right",
        )  # fmt: skip
        batch = {key: value.to(model.device) for key, value in padded.items()}
        if "word_ids" in encoded:
            batch["word_ids"] = torch.full_like(batch["input_ids"], -1)
            words = [[-1 if word is None else word for word in encoded["word_ids"][position]] for position in positions]
            if lengths is not None:
                words = [part for row, own in zip(words, lengths, strict=True) for part in _cut_up(row, own)]
            for row, ids in enumerate(words):
                batch["word_ids"][row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        if lengths is not None:
            batch["num_segments"] = torch.tensor([len(own) for own in lengths], device=model.device)
        yield positions, batch


def _groups(items: list[int], sizes: list[int], most: int) -> Iterator[list[int]]:
    """Split items into consecutive groups with sizes of at most `most` in total, or of one larger item."""
    group: list[int] = []
    total = 0
    for item, size in zip(items, sizes, strict=True):
        if group and total + size > most:
            yield group
            group, total = [], 0
        group.append(item)
        total += size
    if group:
        yield group


def _cut_up(values: list[Any], lengths: list[int]) -> Iterator[list[Any]]:
    """Split a list into consecutive parts of these lengths."""
    remaining = iter(values)
    return (list(itertools.islice(remaining, length)) for length in lengths)
