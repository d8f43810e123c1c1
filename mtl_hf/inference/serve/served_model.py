"""What the server needs of a model, and a model in memory, of torch or onnxruntime, that provides it.

Notable: requests with different heads and different `top_k` share one encoder pass. All heads that any of them needs
run on the batch, and each text has its own `top_k`.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tqdm import tqdm

from ...modeling.encoding import CHOICES, KINDS, PAIRS, SINGLE
from ...modeling.texts import CUT, EMBEDDING, TextModel, answer_stream

_WARM_UP = {SINGLE: "one", PAIRS: ("one", "two"), CHOICES: ("one", ["two"])}
# Rows of a pass of torch on a CPU: more gain little there, and of 32 sentences of SNIPS, sorted by length, two passes
# of 16 take three quarters of the time of one pass, which pads all of them to the longest.
TORCH_ROWS_ON_CPU = 16
ONNX_ROWS = 4  # more gain nothing: one text alone is answered at three quarters of the speed of 64
_NOT_OPTIONS = {"type", "text", "labels", "dropout", "label_smoothing"}


@dataclass(frozen=True)
class ServedTask:
    """A task of a served model.

    Attributes:
        name: Its name.
        type: Its task type.
        reads: The kind of texts that it reads, a value of `encoding.KINDS`.
        labels: Its labels; empty if the type has none.
        options: The other options of its head, such as thresholds.
    """

    name: str
    type: str
    reads: str
    labels: list[str]
    options: dict[str, Any]


@dataclass
class Answer:
    """The predictions for one text.

    Attributes:
        tasks: Task → its prediction, in the form of `MultiTaskModel.predict`; only tasks that read this kind of text.
        embedding: The embedding, if it was requested and the text has one.
        cut: Whether the text was truncated.
    """

    tasks: dict[str, Any]
    embedding: list[float] | None = None
    cut: bool = False


class ServedModel(Protocol):
    """What the server needs of a model. `predict` is called by one thread only.

    Attributes:
        tasks: Task → its description, in the order of the heads; only tasks that predict something for a raw text.
        max_length: Maximum number of tokens of a text.
        no_embeddings: Why the model has no embeddings; empty if it has.
    """

    tasks: dict[str, ServedTask]
    max_length: int
    no_embeddings: str

    def predict(
        self, texts: Sequence[Any], *, tasks: Sequence[str], top_k: Sequence[int | None], embeddings: bool
    ) -> list[Answer]:
        """Predict for a batch of texts, in one encoder pass if possible.

        Args:
            texts: Strings, lists of words, pairs or texts with choices, as `MultiTaskModel.predict` takes them.
            tasks: The tasks to run; those that do not read a kind of text are left out for these texts.
            top_k: For each text the number of labels, as in `MultiTaskModel.predict_stream`.
            embeddings: Whether to add the embeddings, which texts with choices do not have.
        """
        ...


class ModelInMemory:
    """A model as a `ServedModel`, on its own device.

    Args:
        model: A `MultiTaskModel` in evaluation mode, or an `OnnxModel`.
        rows: Texts of a pass at most; None for all that wait.
    """

    def __init__(self, model: TextModel, rows: int | None = None) -> None:
        self.model = model
        self.rows = rows
        self.max_length = model.config.max_length
        self.tasks = {
            name: ServedTask(
                name=name,
                type=spec["type"],
                reads=KINDS[spec["text"]],
                labels=list(spec.get("labels", [])),
                options={key: value for key, value in spec.items() if key not in _NOT_OPTIONS},
            )
            for name, spec in model.config.heads.items()
            if model.heads[name].answers_texts
        }
        self.no_embeddings = _why_no_embeddings(model, self.tasks)
        if self.tasks:
            model.predict([], heads=list(self.tasks))  # logs heads without training

    def warm_up(self) -> None:
        """Predict once, so that the first request does not wait for what the backend prepares."""
        kinds = {task.reads for task in self.tasks.values()} or {SINGLE}
        texts = [_WARM_UP[kind] for kind in kinds]
        self.predict(texts, tasks=list(self.tasks), top_k=[1] * len(texts), embeddings=not self.no_embeddings)

    def predict(
        self, texts: Sequence[Any], *, tasks: Sequence[str], top_k: Sequence[int | None], embeddings: bool
    ) -> list[Answer]:
        """See `ServedModel.predict`."""
        readers: list[str | None] = [*tasks, *([None] if embeddings else [])]
        order = sorted(range(len(texts)), key=lambda number: _length(texts[number]))
        stream = answer_stream(
            self.model,
            [texts[number] for number in order],
            readers,
            batch_size=self.rows or len(texts),
            top_k=[top_k[number] for number in order],
            bar=tqdm(disable=True),
            report=_ignore,
        )
        answers: dict[int, Answer] = {}
        for number, found in zip(order, stream, strict=True):
            own = {name: found[name] for name in tasks if name in found}
            embedding = found.get(EMBEDDING) if embeddings else None
            answers[number] = Answer(own, embedding, CUT not in own and bool(found.get(CUT, False)))
        return [answers[number] for number in range(len(texts))]


def describe(task: ServedTask, number: int) -> dict[str, Any]:
    """A task as plain data, with its number from 1."""
    return {"number": number} | dataclasses.asdict(task)


def _length(text: Any) -> int:
    return len(text) if isinstance(text, str) else sum(map(_length, text))


def _why_no_embeddings(model: Any, tasks: dict[str, ServedTask]) -> str:
    if EMBEDDING in tasks:
        return f"a task is called {EMBEDDING!r}"
    try:
        model.check_embeddings()
    except ValueError as error:
        return str(error)
    return ""


def _ignore(*_: Any) -> None:
    """Texts that are cut and tasks that do not read a text are in the answer."""
