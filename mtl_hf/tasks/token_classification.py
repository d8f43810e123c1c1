"""`token_classification`: a label for each word of a row, such as tags of entities."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..config import RunConfig, Task, option
from ..modeling.tags import IGNORE_INDEX, NO_TOKEN, UNLABELLED, bio_spans, is_span_scheme
from ..statistics import LabelCounts, Statistic, macro_f1, micro_f1, precision, ratio, recall
from .arrow_columns import column_of, feature_of, values_of
from .column import MAX_LABELS, Candidate, Column
from .imbalance import ImbalancedType, ImbalanceOptions, refuse_losses
from .label_lists import is_text
from .measures import cross_entropies, per_label, undefined, with_cross_entropy
from .name_column import NameColumn
from .names import (
    are_numbers,
    declared_labels,
    feature_names,
    label_column,
    listed,
    name_reader,
    report_unknown,
    vocabulary,
)
from .source_data import SourceData
from .span_tags import check_bio, fits, read_schemes, report_word_labels, span_names
from .tag_schemes import BIO, bio_labels, is_span_tag
from .task_type import (
    Answers,
    Measured,
    RawRow,
    ScoredRows,
    TaskData,
    check_trainable,
    flat,
)
from .written_lists import are_lists, parse_list, split_at_blanks
from .written_tags import read_line, span_lines, tag_lines, with_unlabelled, without_unlabelled

if TYPE_CHECKING:
    import datasets


logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class TokenOptions(ImbalanceOptions):
    """Keys of `tasks.<name>` for `token_classification`."""

    bio: Literal["repair", "refuse"] = option(
        "I- tags that continue no span. repair: read them as B- · refuse: raise an error", "repair"
    )
    scheme: Literal["auto", "io", "iob1", "iob2", "bio", "bioes", "iobes", "bilou", "bmes"] = option(
        "scheme of the tags. auto: detect it · io: a type alone (PER) is inside a span, too · iob2 is bio, iobes is"
        " bioes",
        "auto",
    )
    alignment: Literal["first", "last", "mean", "max"] = option(
        "state of a word with several sub-words: that of the first or the last one, or their mean or maximum", "first"
    )
    crf: bool = option(
        "predict the labels of a row together, with a linear-chain CRF (only legal sequences of BIO tags)", False
    )


class TokenClassification(ImbalancedType):
    """Precision, recall and F1 of entities, overall and per type, and accuracy over words.

    Entities are those of `bio_spans`, which reads tags like seqeval's default mode. For tags that are not BIO, such as
    parts of speech: accuracy and macro F1 over words. A prediction of None (for a word without tokens) is wrong, and
    outside of entities.
    """

    name = "token_classification"
    label = "a list with one label for each word"
    has_vocabulary = True
    reads_spans = True
    metrics = ("f1", "precision", "recall", "accuracy", "cross_entropy")
    options = TokenOptions
    column_kinds = ("words", "numbers")
    unit = "words"
    example_names = ("O", "B-PER", "I-PER")
    hub_task = "token-classification"
    stock = ("AutoModelForTokenClassification", None)

    # ---- settings ----

    def check(self, name: str, spec: Task, run: RunConfig) -> None:
        """A CRF has a loss of its own, and spans have no scheme."""
        super().check(name, spec, run)
        options = self.read_options(name, spec)
        if spec.spans is not None and options.scheme not in ("auto", "bio", "iob2"):
            raise ValueError(
                f"`tasks.{name}.scheme` is {options.scheme}, but `spans` names a column of spans, which have no scheme"
                " of tags. Remove `scheme`."
            )
        if options.crf:
            refuse_losses(name, options, "`crf: true`, which has a loss of its own")
        if options.crf and spec.label_smoothing:
            raise ValueError(
                f"`tasks.{name}.label_smoothing` is {spec.label_smoothing}, which is of the softmax loss and cannot be"
                " combined with `crf: true`. Remove one of them."
            )

    def head_options(self, spec: Task, options: Any, dropout: float | None) -> dict[str, Any]:
        """Also alignment and CRF, if they are not the default."""
        own: dict[str, Any] = {"alignment": options.alignment} if options.alignment != "first" else {}
        return super().head_options(spec, options, dropout) | own | ({"crf": True} if options.crf else {})

    def changed_options(self, spec: Task, options: Any) -> dict[str, Any]:
        """Also alignment and CRF, if the config has them."""
        own = {key: getattr(options, key) for key in ("alignment", "crf") if key in spec.options}
        return super().changed_options(spec, options) | own

    def kept_options(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """Alignment and CRF."""
        return {"alignment": head.get("alignment", "first"), "crf": head.get("crf", False)}

    def reads_word_ids(self, options: Any) -> bool:
        """For every alignment but `first`."""
        return bool(options.alignment != "first")

    # ---- labels ----

    def read_labels(
        self, name: str, spec: Task, source: SourceData, given: Sequence[str] | None
    ) -> dict[str, Sequence[Any]]:
        """Lists of tags, None for rows without a list, and None for words without a tag."""
        labels: dict[str, Sequence[Any]] = {}
        for split, rows in source.splits.items():
            column = label_column(name, spec, source, split, lists=True)
            tags = column.rename(name_reader(name, spec, source, split))
            num_words = pc.list_value_length(column_of(rows, source.columns[0])).to_numpy()
            wrong = np.flatnonzero(~tags.missing & (tags.lengths != num_words))
            for row in wrong[:1].tolist():
                raise ValueError(
                    f"`tasks.{name}`: {source.where(split, row)} has {num_words[row]} words but {tags.lengths[row]}"
                    f" labels in {spec.column!r}; it should have one for each word."
                )
            absent = np.flatnonzero(tags.codes < 0)
            if len(absent):
                row, place = tags.place(absent[0])
                logger.info("Task %s: %d words of %s %s have no tag and do not count in loss and scores (the first: %s,"
                            " word %d).", name, len(absent), source.name, split, source.where(split, row),
                            place + 1)  # fmt: skip
            labels[split] = tags
        return labels

    def build(
        self, name: str, spec: Task, sources: list[SourceData], form: str, run: RunConfig, given: list[str] | None
    ) -> TaskData:
        """Detect the scheme of the tags, convert them to BIO, and build the vocabulary."""
        options = self.read_options(name, spec)
        spans = given is None or is_span_scheme(given)
        if given is not None and not spans and options.scheme != "auto":
            raise ValueError(f"`tasks.{name}.scheme` is {options.scheme}, but the labels of the trained head are not"
                             f" tags of spans ({', '.join(given[:5])}): remove it.")  # fmt: skip
        schemes = read_schemes(name, sources, run, options.bio, given, options.scheme) if spans else {}
        check_trainable(name, spec, sources)
        declared = declared_labels(spec)
        if declared is not None and spec.spans is not None and not any(map(is_span_tag, declared)):
            declared = ["O", *bio_labels([f"I-{kind}" for kind in declared if kind != "O"], BIO)]
        if declared is not None:
            for scheme in schemes.values():
                declared = declared if scheme.is_bio else bio_labels(declared, scheme)
        features: list[str] = []
        for source in sources:
            own, scheme_here = feature_names(source, spec.column), schemes.get(source.name)
            features += own if scheme_here is None else span_names(name, own, scheme_here)
        labels = given or vocabulary(name, spec, sources, declared, features)
        if schemes and "O" not in labels:  # every word is inside a span
            labels = ["O", *labels]
        spans = is_span_scheme(labels)
        if schemes and not spans:
            others = [label for label in labels if BIO.split(label) is None]
            raise ValueError(f"`tasks.{name}.labels`: the tags are tags of spans, but {', '.join(map(repr, others))}"
                             f" {'is' if len(others) == 1 else 'are'} not: remove them.")  # fmt: skip
        task = TaskData(name, spec, labels, form, spans, declared)
        if not spans and not given:
            report_word_labels(task, sources)
        for source in sources:
            for split in source.splits if source.name in schemes else ():
                check_bio(task, source, split, may_grow=split == "train" and not given)
        report_unknown(task, sources)
        return task

    def of_head(self, name: str, spec: Task, head: Mapping[str, Any]) -> TaskData:
        """The task of a saved head, with `spans` from its labels."""
        return TaskData(name, spec, head["labels"], head["text"], is_span_scheme(head["labels"]))

    def options_of_file(
        self, trained: Task | None, column: str | None, rows: "datasets.Dataset"
    ) -> dict[str, Any] | None:
        """Without `scheme` for a file whose tags do not fit it: the model's types then help to detect theirs."""
        chosen = (trained.options if trained else {}).get("scheme", "auto")
        if trained is None or chosen == "auto" or column is None:
            return None
        tags = _tags_of_file(rows, column)
        if trained.labels or (tags is not None and fits(tags, chosen)):
            return None
        return {key: value for key, value in trained.options.items() if key != "scheme"}

    # ---- encoded rows ----

    def feature(self) -> Any:
        """An id for each word."""
        import datasets

        return datasets.List(datasets.Value("int32"))

    def encode_labels(
        self, task: TaskData, gold: Sequence[Any], encoded: Mapping[str, Sequence[Any]], tokenizer: Any
    ) -> Sequence[Any]:
        """The id of each tag. A CRF has to know the places of words without a label."""
        labels = gold if isinstance(gold, NameColumn) else NameColumn.of(gold)
        lengths = np.fromiter(map(len, encoded["word_starts"]), dtype=np.int64, count=len(labels))
        absent = UNLABELLED if task.options.crf else IGNORE_INDEX
        ids = np.full(lengths.sum(), absent, dtype=np.int32)
        ids[np.repeat(~labels.missing, lengths)] = labels.ids(task.ids, absent)
        return pa.ListArray.from_arrays(np.append(0, np.cumsum(lengths)).astype(np.int32), ids)

    def collate(
        self, labels: pa.ChunkedArray, columns: pa.Table, shape: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Labels of words, (N, T), at the first token of each word."""
        ids, lengths = flat(labels)
        starts, _ = flat(columns["word_starts"])
        rows = np.repeat(np.arange(len(lengths)), lengths)
        by_token = np.full(shape, IGNORE_INDEX, dtype=np.int64)
        kept = starts != NO_TOKEN
        segments, places = _places(columns, rows[kept], starts[kept])
        by_token[segments, places] = ids[kept]
        return by_token, by_token >= 0

    # ---- scores ----

    def metric_names(self, task: TaskData) -> tuple[str, ...]:
        """Metrics of spans, or of words if tags are not spans."""
        if task.spans:
            return self.metrics
        # Tags that are numbers are mostly tags of spans, of which most are O: accuracy would be high for any model.
        first = ("macro_f1", "accuracy") if are_numbers(task.labels) else ("accuracy", "macro_f1")
        return (*first, "cross_entropy")

    def read_answers(self, task: TaskData, rows: ScoredRows) -> Answers:
        """Tags of words with a label; None for a word without tokens, which has no cross-entropy.

        With a CRF, the cross-entropy of a word is the negative logarithm of its tag's marginal probability.
        """
        known = rows.known
        starts = [rows.columns["word_starts"][place] for place in known]
        gold = [rows.gold[place] for place in known]
        lengths = [len(row) for row in starts]
        position = np.array([start for row in starts for start in row], dtype=int)
        ids = np.array([task.ids.get(tag, -1) for tags in gold for tag in tags], dtype=int)
        scored = (ids >= 0) & (position != NO_TOKEN)
        row_of = np.repeat(np.array(known, dtype=int), lengths)
        predicted = NameColumn.of(
            [tag for tag, label in zip(rows.predictions[place].value, tags, strict=True) if label is not None]
            for place, tags in zip(known, gold, strict=True)
        )
        logs = [rows.predictions[place].log_probabilities for place in known]
        if any(one is not None for one in logs):
            losses = -np.concatenate(logs)[scored, ids[scored]]
        else:
            losses = cross_entropies(rows.outputs[row_of[scored], position[scored]], ids[scored])
        return Answers(
            rows.numbers[known],
            predicted,
            NameColumn.of([label for label in tags if label is not None] for tags in gold),
            losses,
            np.bincount(np.repeat(np.arange(len(known)), lengths)[scored], minlength=len(known)),
        )

    def evaluate_features(self) -> tuple[Any, Any]:
        """A list of tags."""
        import datasets

        return datasets.List(datasets.Value("string")), datasets.List(datasets.Value("string"))

    def measure(self, task: TaskData, answers: Answers) -> Measured:
        """One list of tags per row."""
        predicted, gold = (
            tags if isinstance(tags, NameColumn) else NameColumn.of(tags) for tags in (answers.predicted, answers.gold)
        )
        if not len(gold.codes):
            names = [name for name in self.metric_names(task) if name != "cross_entropy"]
            return with_cross_entropy(undefined(names, len(gold)), answers), {}
        names = sorted({*predicted.names, *gold.names})
        ids = {name: place for place, name in enumerate(names)}
        right: list[np.ndarray] = []
        tables: list[LabelCounts] = []
        for found, expected in zip(predicted.blocks(), gold.blocks(), strict=True):
            rows = np.repeat(np.arange(len(expected)), expected.lengths)
            own, labels = found.ids(ids, -1), expected.ids(ids, -1)
            right.append(np.bincount(rows, own == labels, len(expected)))
            if task.spans:
                tables.append(_count_spans(names, rows, own, labels, len(expected)))
            else:
                tables.append(LabelCounts.of_codes(names, rows, own, labels, len(expected)))
        accuracy, counts = ratio(np.concatenate(right), gold.lengths), LabelCounts.join(tables)
        if not task.spans:
            return with_cross_entropy({"accuracy": accuracy, "macro_f1": macro_f1(counts)}, answers), per_label(counts)
        metrics = {
            "f1": micro_f1(counts),
            "precision": precision(counts),
            "recall": recall(counts),
            "accuracy": accuracy,
        }
        return with_cross_entropy(metrics, answers), {"per_type": counts.by_label()}

    def raw_text_metric(self, task: TaskData) -> str | None:
        """F1 of entities, or accuracy over words."""
        return "f1_raw_text" if task.spans else "accuracy_raw_text"

    def measure_raw_text(self, task: TaskData, answers: Answers, others: Mapping[int, RawRow]) -> Statistic:
        """An entity is right if its type and its first and last character are; a word, if its label and borders are."""
        metric: Any = self.measure(task, answers)[0]["f1" if task.spans else "accuracy"]
        columns = np.array(metric.columns)
        places = np.searchsorted(answers.rows, list(others))
        for place, row in zip(places.tolist(), others.values(), strict=True):
            unlabelled = [span for span, tag in zip(row.words, row.gold, strict=True) if tag is None]
            tags = [
                None if any(begin < end_of and start_of < end for start_of, end_of in unlabelled) else tag
                for tag, (begin, end) in zip(row.predicted, row.found, strict=True)
            ]
            found, gold = _items(task, row.found, tags), _items(task, row.words, row.gold)
            right = len(found & gold)
            columns[place] = (2 * right, len(found) + len(gold)) if task.spans else (right, len(gold))
        return Statistic(columns, metric.value)

    def constant(self, task: TaskData, gold: Sequence[Any]) -> Sequence[Any] | None:
        """The most frequent tag, for every word."""
        tags = gold if isinstance(gold, NameColumn) else NameColumn.of(gold)
        counts = tags.counts()
        zeros = np.zeros(len(tags.codes), dtype=np.int8)
        return NameColumn([max(counts, key=counts.__getitem__)], zeros, tags.offsets, tags.missing)

    def check_metric(self, task: TaskData, metric: Any) -> None:
        """Metrics of spans cannot score labels of words, and the other way round."""
        if metric in ("f1", "precision", "recall", "macro_f1"):
            shown = ", ".join(task.labels[:5]) + (", ..." if len(task.labels) > 5 else "")
            what, tags = ("labels of words", "spans") if task.spans else ("spans", "labels of words")
            raise ValueError(
                f"`tasks.{task.name}.metrics`: {metric!r} scores {what}, but the tags of this task ({shown}) are"
                f" {tags}; valid are {', '.join(self.metric_names(task))}."
                + ("" if task.spans else " Tags of spans are written as O, B-PER and I-PER.")
            )

    def for_evaluate(self, task: TaskData, answers: Answers) -> tuple[Sequence[Any], Sequence[Any]]:
        """None is replaced by O: metrics of `evaluate` need a tag for every word."""
        return [["O" if tag is None else tag for tag in row] for row in answers.predicted], answers.gold

    # ---- predictions.jsonl ----

    def to_lines(
        self,
        task: TaskData,
        source: SourceData,
        split: str,
        rows: Sequence[int],
        predicted: Sequence[Any],
        gold: Sequence[Any],
    ) -> list[dict[str, Any]]:
        """Tags in the scheme of the source, one for each word; or spans of characters if it has `offsets`.

        Of a word without a label both the prediction and the label are None.
        """
        if task.spans and source.offsets is not None:
            return span_lines(task.name, source, split, rows, predicted, gold)
        if (written := source.written_tags.get(task.name)) is not None:
            lines = tag_lines(written, predicted, gold)
        else:
            lines = super().to_lines(task, source, split, rows, predicted, gold)
        labels = source.gold[split][task.name]
        return [with_unlabelled(line, labels[row]) for row, line in zip(rows, lines, strict=True)]

    def from_line(self, line: Mapping[str, Any]) -> tuple[Any, Any]:
        """Tags of BIO, of the words with a label."""
        return read_line(line if "words" in line else without_unlabelled(line))

    # ---- detection by `mtl-hf init` ----

    def recognise(self, found: Candidate) -> tuple[bool, str] | None:
        """Lists with one item per word."""
        if not found.aligned:
            return None
        return (True, "") if found.column.num_distinct <= 5 * MAX_LABELS else (False, "other words")

    def remark(self, found: Column) -> str:
        """How to turn types without B- and I- into tags of spans."""
        values = [value for value, _ in found.common]
        if "O" not in values or any(map(is_span_tag, set(values) - {"O"})):
            return ""
        return "; these are labels of words: if they are types of spans, add `scheme: io`"

    # ---- model card ----

    def describe(self, spec: Mapping[str, Any], task: Task | None, code: Any) -> tuple[str, str]:
        """The types of entities, or the labels."""
        labels, key = spec["labels"], "label"
        if is_span_scheme(labels):
            types = sorted({label[2:] for label in labels if label != "O"})
            what, key = f"the entities in it, of {len(types)} types: {listed(types, code)}", "type"
        else:
            what = f"a label for each of its words, one of {len(labels)}: {listed(labels, code)}"
        return what, f'[{{"{key}": ..., "text": ..., "start": ..., "end": ..., "score": ...}}, ...]'

    def occurrences(self, task: TaskData, label: Any) -> Sequence[str]:
        """The types of the spans, or the tags."""
        return [kind for kind, _, _ in bio_spans(label)] if task.spans else [tag for tag in label if tag is not None]


def _tags_of_file(rows: "datasets.Dataset", column: str) -> NameColumn | None:
    """The tags of a column of lists or of strings; None for one of spans."""
    if not is_text(feature_of(rows, column)):
        return NameColumn.read(rows, column, lists=True)
    cells = values_of(rows, column)
    if are_lists(cells):
        return NameColumn.of([parse_list(cell) if cell else None for cell in cells])
    return NameColumn.of([None if cell is None else split_at_blanks(cell) for cell in cells])


def _items(
    task: TaskData, words: Sequence[tuple[int, int]], tags: Sequence[str | None]
) -> set[tuple[str | None, int, int]]:
    """The entities of a text, or its words with a tag, as (label, first character, character after the last)."""
    if task.spans:
        return {(kind, words[begin][0], words[end - 1][1]) for kind, begin, end in bio_spans(tags)}
    return {(tag, *span) for tag, span in zip(tags, words, strict=True) if tag is not None}


def _places(columns: pa.Table, rows: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The segments of a batch, and the positions in them, of tokens given by row and position in the row."""
    if "segments" not in columns.column_names:
        return rows, positions
    lengths, _ = flat(columns["segments"])
    row_ends = np.cumsum(pc.list_value_length(columns["input_ids"]).to_numpy())
    tokens = np.append(0, row_ends)[rows] + positions  # counted over the batch
    ends = np.cumsum(lengths)
    segments = np.searchsorted(ends, tokens, side="right")
    return segments, tokens - (ends - lengths)[segments]


def _count_spans(
    names: list[str], rows: np.ndarray, found: np.ndarray, expected: np.ndarray, num_rows: int
) -> LabelCounts:
    """Count spans of a type that are predicted, expected and both.

    Args:
        names: The tags.
        rows: The row of each word, (n,), in order.
        found: The predicted tag of each word, -1 for none, (n,).
        expected: The tag that it has, (n,).
        num_rows: How many rows there are.
    """
    kinds = sorted({tag.partition("-")[2] for tag in names if tag[:2] in ("B-", "I-") and tag[2:]})
    own, gold = (spans_of(names, kinds, rows, tags) for tags in (found, expected))
    (begins, ends, types), (gold_begins, gold_ends, gold_types) = own, gold
    end_at, type_at = np.full(len(rows), -1), np.full(len(rows), -1)
    end_at[gold_begins], type_at[gold_begins] = gold_ends, gold_types
    both = (end_at[begins] == ends) & (type_at[begins] == types)
    return LabelCounts.of_labels(
        kinds,
        (rows[begins[both]], types[both]),
        (rows[begins], types),
        (rows[gold_begins], gold_types),
        num_rows,
    )


def spans_of(
    names: Sequence[str], kinds: Sequence[str], rows: np.ndarray, tags: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spans of words, as `bio_spans` reads those of each row, of many rows at once.

    Args:
        names: The tags.
        kinds: The types.
        rows: The row of each word, (n,), in order.
        tags: Which tag each word has, -1 for none, (n,).

    Returns:
        First word, word after the last, and type of each span.
    """
    places = {kind: place for place, kind in enumerate(kinds)}
    parts = [tag.partition("-") for tag in names]
    kind_of = np.array([*(places.get(kind, -1) if letter in ("B", "I") else -1 for letter, _, kind in parts), -1])
    inner = np.array([*(letter == "I" for letter, _, _ in parts), False])
    kind = kind_of[tags]
    before = np.append(-1, kind[:-1])[: len(kind)]
    before[np.flatnonzero(np.diff(rows, prepend=-1))] = -1
    continues = inner[tags] & (kind >= 0) & (kind == before)
    begins = np.flatnonzero((kind >= 0) & ~continues)
    stops = np.append(np.flatnonzero(~continues), len(kind))
    return begins, stops[np.searchsorted(stops, begins, side="right")], kind[begins]
