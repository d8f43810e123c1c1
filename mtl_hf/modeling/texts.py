"""Predictions for raw texts: how they are batched, tokenized, run through the model and decoded.

Notable: texts are read in chunks, so that a stream of any length can be predicted, and within a chunk texts of similar
length share a batch. Each head reads texts in the form of its training texts (`encoding.FORMS`) and decodes its own
outputs. The model's `outputs` runs each batch, whose arrays are of numpy: this file needs neither torch nor
transformers, and an exported model (`OnnxModel`) answers by the same code.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .encoding import FORMS, KINDS, SINGLE, check_count, check_text, check_texts, encode, kind_of
from .windows import WINDOW
from .words import splitter, words_of

logger = logging.getLogger(__name__)

EMBEDDING = "embedding"  # key of the embedding in the results of `predict`, beside the tasks
CUT = "cut"  # key of the results, true for texts that were truncated
MOST_CHARACTERS = 2**20  # per chunk: a tokenizer keeps what it truncates until the chunk is done

# What can be computed for a text: names of heads, and None for its embedding.
Readers = list[str | None]
Batch = dict[str, np.ndarray]


class TextModel:
    """Predictions for raw texts, for models of any engine.

    Attributes:
        config: Has `heads` (name → specification), `max_length`, `overflow`, `window_stride` and `word_rules`.
        tokenizer: The tokenizer.
        heads: Name → its `Head` or `Decoder`.
    """

    config: Any
    tokenizer: Any
    heads: Any
    _warned_heads: set[str]
    _warned_no_answer: set[str]

    def outputs(self, batch: Batch, names: Readers) -> dict[str | None, np.ndarray]:
        """The outputs of heads for each row of a batch, (B, ...), in float32; for None its embedding, (B, H).

        Args:
            batch: Inputs of the encoder, (N, T): `input_ids`, `attention_mask`, ...; and optionally `word_ids`, (N, T),
                and `num_segments`, (B,).
            names: Names of heads; None for the embedding.
        """
        raise NotImplementedError

    def predict(self, texts: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        """Predict with all heads, or some, for raw texts.

        Each head reads a text in the form of its training texts: as a string, or split into words. For most texts both
        give the same tokens, and one encoder pass is enough.

        Args:
            texts: Strings, lists of words, tuples of two strings (pairs), or tuples of a string and a list of strings
                (a text with choices). Texts longer than `max_length` are truncated, or read in windows.
            **options: `heads`, `batch_size`, `top_k`, `embeddings`, `show_progress`, as in `predict_stream`.

        Returns:
            For each text, task → prediction in the form of the head's `answer`, and `"cut": True` if the text was
            truncated. A pair gets predictions only from heads that read pairs, and a single text from the others.

        Raises:
            ValueError: `texts` is a single string, an item is not a text, or the model has no such head.
        """
        return list(self.predict_stream(texts, **options))

    def predict_stream(
        self,
        texts: Iterable[Any],
        *,
        heads: str | Iterable[str] | None = None,
        batch_size: int = 32,
        top_k: int | None = 1,
        embeddings: bool = False,
        show_progress: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """`predict` for a stream of any length: yields predictions in the order of the texts, while it reads them.

        Args:
            texts: As in `predict`.
            heads: Name of a head or list of names; None for all heads.
            batch_size: Texts per batch. Up to 64 batches are read ahead, so that texts of similar length share one; the
                first results come after one batch. With 1, each text is predicted as soon as it is read.
            top_k: Number of labels per text: 1 for the best, n for a list of the n best, None for a list of all.
            embeddings: Whether to add `"embedding"`, the result of `encode` as a list of numbers.
            show_progress: Whether to show a progress bar.

        Raises:
            ValueError: As in `predict`. An invalid argument raises at once, an invalid text when it is read.
        """
        check_texts(texts)
        names = self.select_heads(heads)
        if tied := [name for name in names if not self.heads[name].answers_texts]:
            raise ValueError(
                f"`heads` has {tied[0]!r}, which predicts masked tokens and nothing for a raw text. For its logits over"
                f" the vocabulary, call the model: `model(**batch, heads={tied[0]!r})`."
            )
        if not names and not embeddings:
            unable = ", ".join(self.heads) if heads is None else ""
            only = f" (only {unable}, which predicts nothing for a raw text)" if unable else ""
            raise ValueError(f"the model has no heads to predict with{only}: add one with `add_head`.")
        if embeddings and EMBEDDING in names:
            raise ValueError(
                f"a head is called {EMBEDDING!r}, which is also the key of `embeddings`: leave it out of `heads`."
            )
        check_count("batch_size", batch_size)
        if top_k is not None:
            check_count("top_k", top_k)
        self.warn_untrained(names)
        if embeddings:
            self.check_embeddings()
        readers: Readers = [*names, *([None] if embeddings else [])]
        bar = tqdm(total=len(texts) if isinstance(texts, Sized) else None, unit="text", disable=not show_progress)
        return answer_stream(
            self, texts, readers, batch_size=batch_size, top_k=top_k, bar=bar, report=self._warn_no_answer
        )

    def select_heads(self, heads: str | Iterable[str] | None, labels: Iterable[str] = ()) -> list[str]:
        """The names of the chosen heads.

        Args:
            heads: Name of a head or list of names; None for all that make predictions for raw texts.
            labels: For None: further heads to choose.

        Raises:
            ValueError: The model has no such head.
        """
        if heads is None:
            return [name for name, head in self.heads.items() if name in labels or head.answers_texts]
        names = [heads] if isinstance(heads, str) or not isinstance(heads, Iterable) else list(heads)
        if unknown := [name for name in names if not isinstance(name, str) or name not in self.heads]:
            raise ValueError(f"`heads` has {unknown}; the heads of the model are {list(self.heads)}.")
        return names

    def warn_untrained(self, names: list[str]) -> None:
        """Log heads without training, each once."""
        for name in names:
            if not self.config.heads[name].get("num_steps", 0) and name not in self._warned_heads:
                self._warned_heads.add(name)
                # By the logger of the model: a server silences that of this file, which is about texts.
                logging.getLogger(type(self).__module__).warning(
                    "Head %r has not been trained: its predictions are random.", name
                )

    def check_embeddings(self) -> None:
        """Raise `ValueError` if the model has no embedding without a head."""

    def _warn_no_answer(self, names: list[str], reason: str) -> None:
        if set(names) - self._warned_no_answer:
            self._warned_no_answer.update(names)
            logger.warning("No prediction from %s: %s.", ", ".join(names), reason)


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
        model: A `TextModel`.
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
            outputs = model.outputs(batch, names)
            columns = {key: [column[position] for position in positions] for key, column in encoded.items()}
            for name, output in outputs.items():
                if name is None:
                    answers: Any = output.tolist()
                else:
                    head = model.heads[name]
                    answers = (
                        head.answer(prediction, *words.get(row, (texts[row],)), top_k=top_k[row])
                        for row, prediction in zip(chosen, head.decode(output, columns), strict=True)
                    )
                for row, one in zip(chosen, answers, strict=True):
                    found[row][name] = one
    return found, cut, unread


def _readings(
    model: Any, texts: list[Any], words: dict[int, tuple[str, Any]], readers: dict[str, Readers]
) -> Iterator[tuple[list[int], dict[str, list[Any]], Readers]]:
    """Yield (row numbers, these rows encoded, their readers): one encoder pass each.

    Args:
        model: A `TextModel`.
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
        model: A `TextModel`.
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


def embed_texts(
    model: Any, texts: Sequence[Any], vectors: Callable[[Batch], np.ndarray], batch_size: int, show_progress: bool
) -> tuple[np.ndarray, int]:
    """Embed texts as strings or pairs, those of similar length in one batch.

    Args:
        model: A `TextModel`.
        texts: Strings, lists of words, or pairs.
        vectors: Batch → the embedding of each of its rows, (B, H).
        batch_size: Texts per batch.
        show_progress: Whether to show a progress bar.

    Returns:
        (num_texts, H) float32, in the order of `texts`; and the number of truncated texts.

    Raises:
        ValueError: An item is not a text, or there are both pairs and single texts.
    """
    checked = [check_text(text, number) for number, text in enumerate(texts, start=1)]
    forms = {"pair" if isinstance(text, tuple) else "string" for text in checked} or {"string"}
    if len(forms) > 1:
        raise ValueError("`texts` has both pairs and single texts: embed them in two calls.")
    form = forms.pop()
    read = encode_texts(model, checked if form == "pair" else [words_of(text)[0] for text in checked], form)
    result = np.empty((len(checked), model.config.hidden_size), np.float32)
    with tqdm(total=len(checked), unit="text", disable=not show_progress) as bar:
        for rows, batch in padded_batches(model, read, batch_size):
            result[rows] = vectors(batch)
            bar.update(len(rows))
    return result, sum(read["cut"])


def padded_batches(model: Any, encoded: dict[str, list[Any]], batch_size: int) -> Iterator[tuple[list[int], Batch]]:
    """Yield (positions in `encoded`, padded batch), longest texts first.

    Args:
        model: A `TextModel`.
        encoded: Result of `encode_texts`.
        batch_size: Texts per batch. A text with several segments has several rows in the batch; `num_segments` has
            their number for each text. Of texts that are read in windows, a batch has at most so many windows, or one
            text.
    """
    order = sorted(range(len(encoded["input_ids"])), key=lambda position: -len(encoded["input_ids"][position]))
    in_windows = model.config.overflow == WINDOW and "segments" in encoded
    sizes = [len(encoded["segments"][position]) if in_windows else 1 for position in order]
    tokenizer = model.tokenizer
    fill = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id, "word_ids": -1}
    for positions in _groups(order, sizes, batch_size):
        rows = {key: [encoded[key][position] for position in positions] for key in fill if key in encoded}
        lengths = [encoded["segments"][position] for position in positions] if "segments" in encoded else None
        if lengths is not None:
            rows = {key: [part for row, own in zip(column, lengths, strict=True) for part in _cut_up(row, own)]
                    for key, column in rows.items()}  # fmt: skip
        counts = np.array([len(row) for row in rows["input_ids"]])
        real = np.arange(max(1, counts.max())) < counts[:, None]  # a batch without any token gets one of padding
        batch = {"attention_mask": real.astype(np.int64)}
        for key, column in rows.items():
            batch[key] = np.full(real.shape, fill[key], np.int64)
            batch[key][real] = [-1 if value is None else value for row in column for value in row]
        if lengths is not None:
            batch["num_segments"] = np.array([len(own) for own in lengths])
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
