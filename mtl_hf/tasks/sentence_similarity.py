"""`sentence_similarity`: how alike the two texts of a row are, by scores, or by their belonging together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..config import RunConfig, Task, option
from ..statistics import mean
from .column import Candidate, Column
from .label_text import as_number
from .numbers import as_labels, read_numbers
from .regression import Regression, correlations
from .source_data import SourceData
from .task_type import Answers, Measured, ScoredRows, TaskData

if TYPE_CHECKING:
    import datasets


@dataclass(kw_only=True)
class SimilarityOptions:
    """Keys of `tasks.<name>` for `sentence_similarity`."""

    loss: Literal["cosine", "ranking"] | None = option(
        "cosine: MSE between cosine and score · ranking: in-batch negatives, no label needed (default: cosine)", None
    )
    score_range: list[float] | None = option(
        "the lowest and the highest score there can be, read as 0 and 1 (default: [0, 1])", None
    )
    temperature: float | None = option("loss ranking only: divisor of the cosines (default: 0.05)", None)

    @property
    def ranking(self) -> bool:
        """Whether rows have no scores."""
        return self.loss == "ranking"

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        least, greatest = self.score_range or (0.0, 1.0)
        return least, greatest


class SentenceSimilarity(Regression):
    """Spearman and Pearson correlation of cosines with scores.

    Without a label column a prediction is the rank of a first text's own second text among the different ones of all
    rows, 1 for the nearest: `accuracy` is the share of ranks 1, `mrr` the mean of 1 / rank.
    """

    name = "sentence_similarity"
    label = "a score a row, within `score_range`"
    metrics = ("spearman", "pearson")
    alone = True
    has_weights = False
    options = SimilarityOptions
    hub_task = "sentence-similarity"
    pipeline = None
    stock = None

    # ---- settings ----

    def needs_label(self, options: Any) -> bool:
        """Texts that belong together need none."""
        return not options.ranking

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Check scores, temperature, and a learning rate, which only a head with weights has."""
        options = self.read_options(name, spec)
        if options.temperature is not None and not 0 < options.temperature < math.inf:
            raise ValueError(f"`tasks.{name}.temperature` is {options.temperature}; it is above 0, and finite.")
        if options.score_range is not None and not all(map(math.isfinite, options.score_range)):
            raise ValueError(f"`tasks.{name}.score_range` is {options.score_range}; both are finite.")
        if options.ranking:
            for key, found in (("label", spec.label), ("score_range", options.score_range)):
                if found is not None:
                    raise ValueError(
                        f"`tasks.{name}.{key}` is {found!r}, but `loss: ranking` reads no scores: the two texts of a"
                        " row belong together."
                    )
        elif options.temperature is not None:
            raise ValueError(f"`tasks.{name}.temperature` is {options.temperature}, which only `loss: ranking` has.")
        found = options.score_range
        if found is not None and not (len(found) == 2 and found[0] < found[1]):
            raise ValueError(
                f"`tasks.{name}.score_range` is {found}; it is the least and the greatest score, as in [0, 5]."
            )
        # None where a saved model decides.
        pooling = spec.pooling or run.model.pooling or (None if run.model.from_ else "mean")
        if spec.learning_rate is not None and pooling not in (None, "attention"):
            raise ValueError(
                f"`tasks.{name}.learning_rate` is {spec.learning_rate}, but this head has no weights of its own: only"
                " `pooling: attention` gives it some."
            )

    def head_options(self, spec: Task, options: Any, dropout: float | None) -> dict[str, Any]:
        """A cosine is not taken of noise: without dropout, unless the task names it."""
        own = {key: found for key in ("loss", "temperature") if (found := getattr(options, key))}
        return super().head_options(spec, options, None) | own

    def changed_options(self, spec: Task, options: Any) -> dict[str, Any]:
        """The task's loss, whatever the head was trained by."""
        own = {key: found for key in ("loss", "temperature") if (found := getattr(options, key)) is not None}
        return super().changed_options(spec, options) | ({"loss": "cosine"} if spec.train else {}) | own

    def fewest_rows(self, options: Any) -> int:
        """With ranking, the other rows of the batch are the negatives."""
        return 2 if options.ranking else 1

    def needs_no_column(self, spec: Mapping[str, Any], found: Sequence[str]) -> bool:
        """A head of texts that belong together needs no scores."""
        return not found and spec.get("loss") == "ranking"

    def options_of_file(
        self, trained: Task | None, column: str | None, rows: "datasets.Dataset"
    ) -> dict[str, Any] | None:
        """By the scores where there is a column of them, else as texts that belong together.

        Where no config says what range scores have, it is that of the column: correlations do not depend on it.
        """
        if column is None:
            return {"loss": "ranking"}
        if trained is not None and trained.label is not None:
            return None
        numbers = map(as_number, rows[column])  # CSV holds text where one is written as no program would (`+1`)
        scores = [score for score in numbers if isinstance(score, int | float) and not math.isnan(score)]
        return {"score_range": [float(min(scores)), float(max(scores))]} if len(set(scores)) > 1 else {}

    # ---- labels ----

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, list[Any]]:
        """Scores as shares of their range, None where a row has none; 1 for every row without scores."""
        options = self.read_options(name, spec)
        if options.ranking:
            return {split: [1.0] * len(rows) for split, rows in source.splits.items()}
        least, greatest = options.bounds
        labels: dict[str, list[Any]] = {}
        for split in source.splits:
            numbers = read_numbers(name, spec, source, split)
            if len(outside := np.flatnonzero((numbers < least) | (numbers > greatest))):
                row = outside[0]
                raise ValueError(
                    f"`tasks.{name}`: {source.where(split, row)} has the score {numbers[row]:g} in the column"
                    f" {spec.label!r}, which is not within {least:g} and {greatest:g}: mend it, or set"
                    " `score_range`."
                )
            labels[split] = as_labels((numbers - least) / (greatest - least))
        return labels

    def warn(self, task: TaskData, sources: Sequence[SourceData]) -> None:
        """Scores are within bounds already."""

    # ---- scores ----

    def metric_names(self, task: TaskData) -> tuple[str, ...]:
        """Without scores, those of ranks."""
        return ("accuracy", "mrr") if task.config.label is None else self.metrics

    def read_answers(self, task: TaskData, rows: ScoredRows) -> Answers:
        """Cosines; without scores the two vectors and a number of the second text, whose ranks need all rows."""
        answers = super().read_answers(task, rows)
        if task.config.label is None:
            keys = [_text_key(rows, place) for place in rows.known]
            answers.predicted = list(zip(rows.outputs[rows.known], keys, strict=True))
        return answers

    def complete(self, task: TaskData, answers: Answers) -> Answers:
        """Without scores, the ranks."""
        if task.config.label is None and answers.predicted:
            vectors = np.stack([pair for pair, _ in answers.predicted])
            numbers: dict[Any, int] = {}
            texts = np.array([numbers.setdefault(key, len(numbers)) for _, key in answers.predicted], dtype=int)
            first, second = vectors.astype(np.float64).transpose(1, 0, 2)
            answers.predicted = own_ranks(first, second, texts).astype(float).tolist()
        return answers

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """A cosine, or a rank, a row."""
        if task.config.label is not None:
            return correlations(answers.predicted, answers.gold, self.metrics), {}
        found = np.asarray(answers.predicted, dtype=float)
        return {"accuracy": mean(found == 1), "mrr": mean(1 / found)}, {}

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """The mean; of ranks the last one, as where all are equal."""
        return super().constant(task, gold) if task.config.label is not None else [float(len(gold))] * len(gold)

    # ---- what `mtl-hf init` finds ----

    def recognise(self, found: Candidate) -> tuple[bool, str] | None:
        """Pairs with a single number: how alike they are, where no other task wants them read as one text."""
        return (True, "") if found.quantity and found.only_number else None

    def takes(self, found: Candidate) -> bool:
        """Only where someone says so."""
        return False

    def propose(
        self, found: Column, rows: Sequence[Any], bounds: tuple[float, float] | None
    ) -> tuple[dict[str, Any], str]:
        """The range of the scores, where that is not from 0 to 1."""
        if bounds is None or 0 <= bounds[0] <= bounds[1] <= 1:
            return {}, ""
        return {"score_range": [min(0, math.floor(bounds[0])), math.ceil(bounds[1])]}, ""

    # ---- what people read ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """The cosine, and how it is read as a score of the data, where a range is known."""
        what = "the cosine of their vectors, from -1 to 1"
        if task is None or task.label is None or spec.get("loss") == "ranking":
            return what, "..."
        least, greatest = self.read_options("", task).bounds
        if (least, greatest) == (0, 1):
            return f"{what}, trained on scores from 0 to 1", "..."
        back = f"{greatest - least:g} x cosine" + (f" {'+' if least > 0 else '-'} {abs(least):g}" if least else "")
        scores = f"scores from {least:g} to {greatest:g}, which are a cosine of 0 and 1: a score is {back}"
        return f"{what}, trained on {scores}", "..."

    def in_its_unit(self, task: TaskData, numbers: np.ndarray) -> np.ndarray:
        """Shares of the range as scores."""
        least, greatest = task.options.bounds
        return numbers * (greatest - least) + least


def _text_key(rows: ScoredRows, place: int) -> Any:
    """What is the same for second texts that become the same tokens, or are equal.

    So `Yes` and `yes` are one to an encoder that knows no capitals, as they are in the loss. What is cut off or unknown
    to the tokenizer may differ, though: texts with such parts are equal only as they are written.
    """
    ids = rows.columns["input_ids"][place]
    own = tuple(ids[rows.columns["segments"][place][0] :])
    whole = len(own) < rows.max_length and rows.tokenizer.unk_token_id not in own
    return own if whole else rows.texts[place][1]


def own_ranks(first: np.ndarray, second: np.ndarray, texts: np.ndarray | None = None, chunk: int = 1000) -> np.ndarray:
    """How near each first vector's own second text is among all different second texts: 1 where it is the nearest.

    Equal cosines (within what rounding does to them) count against it, so that a model to which all texts are the same
    ranks nothing first.

    Args:
        first: (n, H), of length 1.
        second: (n, H), of length 1; row i belongs to row i.
        texts: (n,), the same number for equal second texts; by default all differ.
        chunk: First vectors compared at once.

    Returns:
        (n,) whole numbers from 1 to the number of different second texts.
    """
    _, places, own_text = np.unique(
        np.arange(len(first)) if texts is None else texts, return_index=True, return_inverse=True
    )
    different = second[places]
    ranks = np.zeros(len(first), dtype=int)
    for begin in range(0, len(first), chunk):
        cosines = first[begin : begin + chunk] @ different.T
        own = cosines[np.arange(len(cosines)), own_text[begin : begin + chunk]]
        ranks[begin : begin + chunk] = (cosines >= own[:, None] - 1e-6).sum(1)
    return ranks
