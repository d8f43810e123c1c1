"""`sentence_similarity`: similarity of the two texts of a row, learned from scores, or from pairs without scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
        "lowest and highest possible score, which are scaled to 0 and 1 (default: [0, 1])", None
    )
    temperature: float | None = option("loss ranking only: divisor of the cosines (default: 0.05)", None)

    @property
    def ranking(self) -> bool:
        """Whether the loss is `ranking`: rows have no scores."""
        return self.loss == "ranking"

    @property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        least, greatest = self.score_range or (0.0, 1.0)
        return least, greatest


class SentenceSimilarity(Regression):
    """Spearman and Pearson correlation of cosines with scores.

    Without a label column a prediction is the rank of a first text's own second text among the distinct second texts of
    all rows, 1 for the nearest: `accuracy` is the share of ranks 1, `mrr` the mean of 1 / rank.
    """

    name = "sentence_similarity"
    label = "one score per row, within `score_range`"
    metrics = ("spearman", "pearson")
    alone = True
    has_weights = False
    options = SimilarityOptions
    rejects: ClassVar[tuple[str, ...]] = (*Regression.rejects, "layers")  # its vectors are those of the encoder
    hub_task = "sentence-similarity"
    pipeline = None
    stock = None

    # ---- settings ----

    def needs_label(self, options: Any) -> bool:
        """`ranking` needs no label column."""
        return not options.ranking

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """Check the options, and that a learning rate is set only for a head with weights."""
        options = self.read_options(name, spec)
        if options.temperature is not None and not 0 < options.temperature < math.inf:
            raise ValueError(f"`tasks.{name}.temperature` is {options.temperature}; it should be above 0 and finite.")
        if options.score_range is not None and not all(map(math.isfinite, options.score_range)):
            raise ValueError(f"`tasks.{name}.score_range` is {options.score_range}; both numbers should be finite.")
        if options.ranking:
            for key, found in (("label", spec.label), ("score_range", options.score_range)):
                if found is not None:
                    raise ValueError(
                        f"`tasks.{name}.{key}` is {found!r}, but `loss: ranking` uses no scores. Remove it, or set"
                        " `loss: cosine`."
                    )
        elif options.temperature is not None:
            raise ValueError(
                f"`tasks.{name}.temperature` only works with `loss: ranking`. Remove it, or change `loss`."
            )
        found = options.score_range
        if found is not None and not (len(found) == 2 and found[0] < found[1]):
            raise ValueError(
                f"`tasks.{name}.score_range` is {found}; it should be the lowest and the highest score, as in [0, 5]."
            )
        # None if it is that of a saved model.
        pooling = spec.pooling or run.model.pooling or (None if run.model.from_ else "mean")
        if spec.learning_rate is not None and pooling not in (None, "attention"):
            raise ValueError(
                f"`tasks.{name}.learning_rate` is {spec.learning_rate}, but this head has no weights: only `pooling:"
                " attention` has some."
            )

    def head_options(self, spec: Task, options: Any, dropout: float | None) -> dict[str, Any]:
        """No dropout, which would add noise to the cosines, unless the task sets it."""
        own = {key: found for key in ("loss", "temperature") if (found := getattr(options, key))}
        return super().head_options(spec, options, None) | own

    def changed_options(self, spec: Task, options: Any) -> dict[str, Any]:
        """The task's loss, whatever the head was trained by."""
        own = {key: found for key in ("loss", "temperature") if (found := getattr(options, key)) is not None}
        return super().changed_options(spec, options) | ({"loss": "cosine"} if spec.train else {}) | own

    def fewest_rows(self, options: Any) -> int:
        """`ranking` needs a second row for a negative."""
        return 2 if options.ranking else 1

    def needs_no_column(self, spec: Mapping[str, Any], found: Sequence[str]) -> bool:
        """A head with `ranking` needs no scores."""
        return not found and spec.get("loss") == "ranking"

    def options_of_file(
        self, trained: Task | None, column: str | None, rows: "datasets.Dataset"
    ) -> dict[str, Any] | None:
        """Score with the column of scores, or by ranks if there is none.

        Without a config, the range of the scores is that of the column: correlations do not depend on it.
        """
        if column is None:
            return {"loss": "ranking"}
        if trained is not None and trained.label is not None:
            return None
        numbers = map(as_number, rows[column])  # a CSV column is text if a number has an unusual form (`+1`)
        scores = [score for score in numbers if isinstance(score, int | float) and not math.isnan(score)]
        return {"score_range": [float(min(scores)), float(max(scores))]} if len(set(scores)) > 1 else {}

    # ---- labels ----

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, list[Any]]:
        """Scores scaled from their range to [0, 1], None for rows without one; without scores, 1 for every row."""
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
                    f" {spec.label!r}, which is not within {least:g} and {greatest:g}: correct it, or set"
                    " `score_range`."
                )
            labels[split] = as_labels((numbers - least) / (greatest - least))
        return labels

    def warn(self, task: TaskData, sources: Sequence[SourceData]) -> None:
        """Scores are already within bounds."""

    # ---- scores ----

    def metric_names(self, task: TaskData) -> tuple[str, ...]:
        """The correlations; without scores, metrics of ranks."""
        return ("accuracy", "mrr") if task.config.label is None else self.metrics

    def read_answers(self, task: TaskData, rows: ScoredRows) -> Answers:
        """Cosines; without scores, the two vectors and a key of the second text, since ranks need all rows."""
        answers = super().read_answers(task, rows)
        if task.config.label is None:
            keys = [_text_key(rows, place) for place in rows.known]
            answers.predicted = list(zip(rows.outputs[rows.known], keys, strict=True))
        return answers

    def complete(self, task: TaskData, answers: Answers) -> Answers:
        """Without scores, compute the ranks."""
        if task.config.label is None and answers.predicted:
            vectors = np.stack([pair for pair, _ in answers.predicted])
            numbers: dict[Any, int] = {}
            texts = np.array([numbers.setdefault(key, len(numbers)) for _, key in answers.predicted], dtype=int)
            first, second = vectors.astype(np.float64).transpose(1, 0, 2)
            answers.predicted = own_ranks(first, second, texts).astype(float).tolist()
        return answers

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """One cosine per row, or one rank."""
        if task.config.label is not None:
            return correlations(answers.predicted, answers.gold, self.metrics), {}
        found = np.asarray(answers.predicted, dtype=float)
        return {"accuracy": mean(found == 1), "mrr": mean(1 / found)}, {}

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """The mean; for ranks the last one, which equal embeddings would get."""
        return super().constant(task, gold) if task.config.label is not None else [float(len(gold))] * len(gold)

    # ---- detection by `mtl-hf init` ----

    def recognise(self, found: Candidate) -> tuple[bool, str] | None:
        """Pairs with a single numeric column and no other labels."""
        return (True, "") if found.quantity and found.only_number else None

    def takes(self, found: Candidate) -> bool:
        """Never the default type."""
        return False

    def propose(
        self, found: Column, rows: Sequence[Any], bounds: tuple[float, float] | None
    ) -> tuple[dict[str, Any], str]:
        """The range of the scores, if it is not from 0 to 1."""
        if bounds is None or 0 <= bounds[0] <= bounds[1] <= 1:
            return {}, ""
        return {"score_range": [min(0, math.floor(bounds[0])), math.ceil(bounds[1])]}, ""

    # ---- model card ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """The cosine, and how to convert it to a score of the data, if the range is known."""
        what = "the cosine of their embeddings, from -1 to 1"
        if task is None or task.label is None or spec.get("loss") == "ranking":
            return what, "..."
        least, greatest = self.read_options("", task).bounds
        if (least, greatest) == (0, 1):
            return f"{what}, trained on scores from 0 to 1", "..."
        back = f"{greatest - least:g} x cosine" + (f" {'+' if least > 0 else '-'} {abs(least):g}" if least else "")
        scores = f"scores from {least:g} to {greatest:g}, which are a cosine of 0 and 1: a score is {back}"
        return f"{what}, trained on {scores}", "..."

    def in_its_unit(self, task: TaskData, numbers: np.ndarray) -> np.ndarray:
        """Scale numbers from [0, 1] back to scores."""
        least, greatest = task.options.bounds
        return numbers * (greatest - least) + least


def _text_key(rows: ScoredRows, place: int) -> Any:
    """A key of a second text, the same for texts with the same tokens.

    So `Yes` and `yes` are the same for an uncased encoder, as in the loss. Truncated texts and texts with unknown
    tokens may differ in what the tokens do not show, so their key is the text itself.
    """
    ids = rows.columns["input_ids"][place]
    own = tuple(ids[rows.columns["segments"][place][0] :])
    whole = len(own) < rows.max_length and rows.tokenizer.unk_token_id not in own
    return own if whole else rows.texts[place][1]


def own_ranks(first: np.ndarray, second: np.ndarray, texts: np.ndarray | None = None, chunk: int = 1000) -> np.ndarray:
    """The rank of each first text's own second text among all distinct second texts, by cosine: 1 is the nearest.

    Ties (up to rounding) count against it, so that a model with equal embeddings for all texts ranks nothing first.

    Args:
        first: Vectors of length 1, (n, H).
        second: Vectors of length 1, (n, H); row i belongs to row i of `first`.
        texts: (n,), the same number for equal second texts (default: all are distinct).
        chunk: Number of first vectors compared at once.

    Returns:
        (n,) whole numbers from 1 to the number of distinct second texts.
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
