"""Score tasks of words as raw texts too: strings, or words joined by spaces, split as the model splits strings.

Notable: a row that is split into its own words has the same predictions, so only the other rows are predicted again.
These have other words than the labels, so predictions and labels are compared by their characters. Words that come from
strings are those of the plain splitting, from which a model with word rules differs. Tasks with such words alone are
left out if the model splits plainly.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from accelerate.utils import gather_object
from torch import Tensor, nn

from ..data.rows import EncodedSplit, encode_rows
from ..modeling.words import Span, splitter, words_of
from ..statistics import Statistic
from ..tasks import Answers, SourceData, TaskData
from ..tasks.task_type import RawRow
from .scoring import Columns, decoded

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)

_BLOCK = 1000  # rows whose texts are read at once
_WORDS = "words"  # column of the words of raw texts

# Row → the spans of its words in its string or joined text, this text, and the spans of the words of its splitting.
Resplit = dict[int, tuple[list[Span], str, list[Span]]]


class RawTextScorer:
    """Decodes model outputs batch by batch.

    Attributes:
        predicted: Task → (row, prediction) of the rows of this process.
    """

    def __init__(self) -> None:
        self.predicted: dict[str, list[tuple[int, Any]]] = {}

    def add(
        self, split: EncodedSplit, rows: Sequence[int], outputs: Any, heads: nn.ModuleDict, inputs: Mapping[str, Tensor]
    ) -> None:
        """Decode a batch; arguments as of `Scorer.add`."""
        columns = Columns(split.rows.with_format("arrow")[list(rows)])
        for name, _, predictions in decoded(columns, outputs, heads, inputs):
            values = [prediction.value for prediction in predictions]
            self.predicted.setdefault(name, []).extend(zip(rows, values, strict=True))


def score_raw_texts(
    results: Mapping[str, Any],
    splits: Mapping[str, EncodedSplit],
    answers: Mapping[str, Mapping[str, Answers]],
    trainer: "MultiTaskTrainer",
) -> None:
    """Add the metric `raw_text_metric` of each task of words to `results`, and log how many rows are split differently.

    Args:
        results: Result of `metrics.score`, to which the metrics are added.
        splits: Source → its rows.
        answers: Source → task → its answers to lists of words.
        trainer: The trainer, which predicts the rows that are split differently.
    """
    found: dict[str, dict[str, Statistic]] = {}
    rules = trainer.model.config.word_rules
    left_out = _from_strings_alone(splits) if rules is None else set()
    for source, split in splits.items():
        tasks = {
            name: trainer.tasks[name]
            for name in split.gold
            if name in results["tasks"] and trainer.tasks[name].kind.raw_text_metric(trainer.tasks[name])
            if name not in left_out
        }
        if not tasks or split.texts is None:
            continue
        resplit = _resplit(split, rules)
        logger.info("Source %s: %d of %d rows are split into other words as raw texts.",
                    source, len(resplit), len(split.rows))  # fmt: skip
        predicted = _predict(source, resplit, tasks, trainer) if resplit else {}
        for name, task in tasks.items():
            others = {
                row: RawRow(words, label, own, predicted[name][row])
                for row, (words, _, own) in resplit.items()
                if (label := split.gold[name][row]) is not None
            }
            found.setdefault(name, {})[source] = task.kind.measure_raw_text(task, answers[source][name], others)
    for name, by_source in found.items():
        numbers, metric = results["tasks"][name], str(trainer.tasks[name].kind.raw_text_metric(trainer.tasks[name]))
        parts = list(by_source.values())
        numbers[metric] = Statistic(np.concatenate([part.columns for part in parts]), parts[0].value).number()
        for source, own in numbers.get("per_source", {}).items():
            own[metric] = by_source[source].number()


def _from_strings_alone(splits: Mapping[str, EncodedSplit]) -> set[str]:
    """Tasks whose words all come from strings."""
    of_lists = {name for split in splits.values() if split.strings is None for name in split.gold}
    return {name for split in splits.values() for name in split.gold} - of_lists


def _resplit(split: EncodedSplit, rules: Mapping[str, Any] | None) -> Resplit:
    """The rows whose string, or joined words, are split into other words."""
    split_text, found = splitter(rules), Resplit()
    for row, (text, spans) in _strings(split):
        own = split_text(text)
        if own != spans:
            found[row] = spans, text, own
    return found


def _strings(split: EncodedSplit) -> Iterator[tuple[int, tuple[str, list[Span]]]]:
    assert split.texts is not None
    for begin in range(0, len(split.rows), _BLOCK):
        rows = range(begin, min(begin + _BLOCK, len(split.rows)))
        found = map(words_of, split.texts(rows)) if split.strings is None else split.strings(rows)
        yield from zip(rows, found, strict=True)


def _predict(
    source: str, resplit: Resplit, tasks: Mapping[str, TaskData], trainer: "MultiTaskTrainer"
) -> dict[str, dict[int, Any]]:
    """Task → row → prediction for the words that its raw text is split into."""
    words = [[text[begin:end] for begin, end in own] for _, text, own in resplit.values()]
    rows = datasets.Dataset.from_dict({_WORDS: words})
    gold: dict[str, Sequence[Any]] = {name: [None] * len(words) for name in tasks}
    data = SourceData(source, "words", [_WORDS], {"raw texts": rows}, {"raw texts": gold})
    tokenizer: Any = trainer.processing_class
    config = trainer.model.config
    encoded = encode_rows(data, "raw texts", tasks, tokenizer, config.max_length, config.window_stride)
    scorer = RawTextScorer()
    trainer.predict_source(scorer, source, EncodedSplit(encoded, gold), "eval")
    gather = gather_object if trainer.accelerator.num_processes > 1 else list
    numbers = list(resplit)
    return {name: {numbers[place]: value for place, value in gather(scorer.predicted.get(name, []))} for name in tasks}
