"""`extractive_qa`: answers to questions as spans of a context, in the columns of SQuAD.

Notable: exact match and F1 are those of SQuAD 2.0 as `evaluate` computes them (Rajpurkar et al., arXiv 1606.05250 and
1806.03822), as fractions: in lower case, without punctuation and articles, the best over all right answers. For a
question without an answer, only an empty prediction is right.
"""

import collections
import logging
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from ..config import RunConfig, Task, option
from ..modeling.tags import IGNORE_INDEX
from ..statistics import mean
from .column import Column, TaskColumns
from .measures import cross_entropies, undefined, with_cross_entropy
from .names import no_label
from .source_data import SourceData
from .task_type import Answers, Labels, Measured, ScoredRows, TaskData, TaskType

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class QAOptions:
    """Keys of `tasks.<name>` for `extractive_qa`."""

    max_answer_length: int | None = option("maximum length of an answer, in tokens (default: 30)", None)


class ExtractiveQA(TaskType):
    """Exact match and F1 of answers, as SQuAD 2.0 defines them."""

    name = "extractive_qa"
    label = "answers per row: {text: [...], answer_start: [...]}, both empty for no answer"
    metrics = ("f1", "exact_match", "cross_entropy")
    options = QAOptions
    rejects = ("labels", "label_smoothing", "pooling")
    hub_task = "question-answering"

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Check the length of answers, and that no pooling is set."""
        length = self.read_options(name, spec).max_answer_length
        if length is not None and length < 1:
            raise ValueError(f"`tasks.{name}.max_answer_length` is {length}; it should be at least 1.")
        if spec.pooling is not None:
            raise ValueError(f"`tasks.{name}.pooling` is {spec.pooling!r}, but an extractive_qa head does not pool.")

    def head_options(self, spec: Task, options: Any, dropout: float | None) -> dict[str, Any]:
        """Add the maximum length of answers."""
        return super().head_options(spec, options, dropout) | {"max_answer_length": options.max_answer_length}

    # ---- labels ----

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, list[Any]]:
        """`{"text": [...], "answer_start": [...]}`, None for rows without a label; wrong starts are corrected."""
        labels: dict[str, list[Any]] = {}
        for split, rows in source.splits.items():
            labels[split], moved = [], []
            for row, (value, (_, context)) in enumerate(zip(rows[spec.label], source.texts(split), strict=True)):
                if value is None:
                    labels[split].append(None)
                    continue
                texts, starts = _answers(value)
                if texts is None:
                    hint = " Cells of CSV files cannot hold them: write the rows as JSON lines or Parquet."
                    raise no_label(name, spec, source, split, row, value, hint if source.untyped else "")
                places = [_place(context, text, start) for text, start in zip(texts, starts, strict=True)]
                if None in places:
                    lost = texts[places.index(None)]
                    raise ValueError(
                        f"`tasks.{name}`: {source.where(split, row)} has the answer {lost!r:.100}, which is not in its"
                        f" context ({source.columns[1]!r}): an answer should be a span of the context."
                    )
                if places != starts:
                    moved.append(row)
                labels[split].append({"text": texts, "answer_start": places})
            if moved:
                logger.warning(
                    "Task %s: answers of %d rows of %s %s do not begin at their `answer_start`; the nearest occurrence"
                    " is used (the first: %s).", name, len(moved), source.name, split, source.where(split, moved[0]),
                )  # fmt: skip
        return labels

    # ---- encoded rows ----

    def feature(self) -> Any:
        """First and last token of the answer."""
        import datasets

        return datasets.List(datasets.Value("int32"))

    def check_tokenizer(self, task: TaskData, tokenizer: Any) -> None:
        """The tokenizer has to return character offsets."""
        if not tokenizer.is_fast:
            raise ValueError(
                f"`tasks.{task.name}` needs the character offsets of tokens, which {type(tokenizer).__name__} does not"
                " return: choose an encoder with a fast tokenizer."
            )

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """First and last token of the first answer; missing if it was truncated."""
        return [_tokens(label, offsets) for label, offsets in zip(gold, encoded["offsets"], strict=True)]

    def collate(self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]) -> Labels:
        """First and last token, (B, 2)."""
        places = np.array(labels.to_pylist(), dtype=np.int64).reshape(-1, 2)
        return places, places[:, 0] != IGNORE_INDEX

    # ---- scores ----

    def read_answers(self, task: TaskData, rows: ScoredRows) -> Answers:
        """Predicted texts, and for each row all right answers (none if there is no answer)."""
        known = rows.known
        labels = [_tokens(rows.gold[place], rows.columns["offsets"][place]) for place in known]
        spans = [rows.predictions[place].value for place in known]
        predicted = [
            "" if span is None else rows.texts[place][1][span[0] : span[1]]
            for place, span in zip(known, spans, strict=True)
        ]
        tokens = np.array(labels, dtype=int).reshape(-1, 2)
        scored = tokens[:, 0] != IGNORE_INDEX
        outputs = rows.outputs[known][scored]
        both = [cross_entropies(outputs[..., side], tokens[scored, side]) for side in (0, 1)]
        gold = [rows.gold[place]["text"] for place in known]
        return Answers(rows.numbers[known], predicted, gold, np.mean(both, axis=0), scored.astype(int))

    def evaluate_features(self) -> tuple[Any, Any]:
        """A predicted text, and a list of right texts."""
        import datasets

        return datasets.Value("string"), datasets.List(datasets.Value("string"))

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """One text per row; details have the metrics of questions with and without an answer."""
        pairs = list(zip(answers.predicted, answers.gold, strict=True))
        if not pairs:
            return with_cross_entropy(undefined(["f1", "exact_match"], 0), answers), {}
        right = [[text for text in gold if normal(text)] or [""] for _, gold in pairs]  # "the" alone is no answer
        both = list(zip(answers.predicted, right, strict=True))
        f1 = np.array([max(f1_of(predicted, text) for text in texts) for predicted, texts in both])
        exact = np.array([max(normal(predicted) == normal(text) for text in texts) for predicted, texts in both])
        answered = np.array([bool(gold) for _, gold in pairs])
        details: dict[str, Any] = {}
        if answered.any() and not answered.all():
            for key, chosen in (("has_answer", answered), ("no_answer", ~answered)):
                details[key] = {
                    "f1": float(f1[chosen].mean()),
                    "exact_match": float(exact[chosen].mean()),
                    "support": int(chosen.sum()),
                }
        return with_cross_entropy({"f1": mean(f1), "exact_match": mean(exact)}, answers), details

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """No answer."""
        return [""] * len(gold)

    def for_evaluate(self, task: TaskData, answers: Answers) -> tuple[Sequence[Any], Sequence[Any]]:
        """The first of the right answers."""
        return answers.predicted, [gold[0] if gold else "" for gold in answers.gold]

    # ---- detection by `mtl-hf init` ----

    def find_columns(self, columns: Mapping[str, Column], rows: "datasets.Dataset") -> TaskColumns | None:
        """A question, a context that contains all answers, and answers as SQuAD writes them."""
        strings = [column.name for column in columns.values() if column.kind == "string" and column.num_values]
        question = next((name for name in ("question", "query") if name in strings), None)
        for column in columns.values():
            if column.kind != "other" or question is None:
                continue
            answers = [[] if value is None else _answers(value)[0] for value in rows[column.name]]
            if None in answers or not any(answers):
                continue
            for context in strings:
                texts = zip(rows[context], answers, strict=True)
                if context != question and all(answer in (text or "") for text, held in texts for answer in held or ()):
                    taken = f"questions in {question}, whose answers in {column.name} are spans of {context}"
                    return TaskColumns([question, context], column.name, taken)
        return None

    def propose(
        self, found: Column, rows: Sequence[Any], bounds: tuple[float, float] | None
    ) -> tuple[dict[str, Any], str]:
        """A comment on questions without an answer."""
        none = sum(value is not None and not _answers(value)[0] for value in rows)
        return {}, f"texts and starts of answers; {none:,} questions of the first file have no answer"

    # ---- model card ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """A span of the context."""
        return (
            "the answer to the first text (a question) as a span of the second (a context), or no answer",
            '{"text": ..., "start": ..., "end": ..., "score": ...}',
        )

    def occurrences(self, task: TaskData, label: Any) -> Sequence[str]:
        """Whether there is an answer."""
        return ["(answer)" if label["text"] else "(no answer)"]


def _answers(value: Any) -> tuple[list[str] | None, list[int]]:
    """Texts and starts of a row's answers, as SQuAD writes them or as a list of mappings; None for other values."""
    if isinstance(value, list):
        if not all(isinstance(item, Mapping) and {"text", "answer_start"} <= item.keys() for item in value):
            return None, []
        value = {key: [item[key] for item in value] for key in ("text", "answer_start")}
    if not isinstance(value, Mapping) or not {"text", "answer_start"} <= value.keys():
        return None, []
    texts, starts = (list(value[key] or []) for key in ("text", "answer_start"))
    fits = len(texts) == len(starts) and all(isinstance(text, str) and text for text in texts)
    return (texts, starts) if fits and all(isinstance(start, int) for start in starts) else (None, [])


def _place(context: str, text: str, start: int) -> int | None:
    """Position of an answer in its context: at `start`, else the nearest one; None if it is not in the context."""
    if context.startswith(text, max(start, 0)):
        return start
    found = [match.start() for match in re.finditer(re.escape(text), context)]
    return min(found, key=lambda place: abs(place - start)) if found else None


def _tokens(label: Mapping[str, Any] | None, offsets: Sequence[Sequence[int]]) -> list[int]:
    """First and last token of the first answer."""
    if label is None:
        return [IGNORE_INDEX, IGNORE_INDEX]
    if not label["text"]:
        return [0, 0]
    text, begin = label["text"][0], label["answer_start"][0]
    end = begin + len(text.rstrip())
    begin += len(text) - len(text.lstrip())  # spaces around it are in no token
    inside = [place for place, (text, first, last) in enumerate(offsets) if text == 1 and first < end and last > begin]
    whole = inside and offsets[inside[0]][1] <= begin and offsets[inside[-1]][2] >= end
    return [inside[0], inside[-1]] if whole else [IGNORE_INDEX, IGNORE_INDEX]


_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


def normal(text: str) -> str:
    """Normalize an answer: lower case, without punctuation, articles and extra spaces."""
    plain = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def f1_of(predicted: str, gold: str) -> float:
    """F1 of the words that two answers share; if one is empty, whether both are."""
    own, right = normal(predicted).split(), normal(gold).split()
    if not own or not right:
        return float(own == right)
    shared = sum((collections.Counter(own) & collections.Counter(right)).values())
    return 2 * shared / (len(own) + len(right))
