"""Bodies of requests and responses: what is valid, for pydantic and for the OpenAPI schema.

Notable: a plain JSON list could be a pair or a list of words, so both are objects that name what they are. Tags of
unions are in angle brackets, which `problems.py` leaves out of the names of fields.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StringConstraints, Tag

from ...modeling.encoding import CHOICES, PAIRS, SINGLE
from .limits import Limits
from .problems import ProblemError
from .served_model import ServedModel

Text = Annotated[str, StringConstraints(strict=True, min_length=1, pattern=r"\S")]


def _whole(value: Any) -> Any:
    """A number like 2.0 as an integer, which it is in JSON."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SingleText(_Strict):
    """A text."""

    text: Text


class Pair(_Strict):
    """Two texts, for tasks on pairs."""

    text: Text
    text_pair: Text


class Words(_Strict):
    """A text that is split into words."""

    words: Annotated[list[Text], Field(min_length=1)]


class Choices(_Strict):
    """A text with choices, for multiple choice."""

    text: Text
    choices: Annotated[list[Text], Field(min_length=1)]


# Name in the schema → kind of texts; a string has no name.
KIND_OF_FORM = {"": SINGLE, "SingleText": SINGLE, "Words": SINGLE, "Pair": PAIRS, "Choices": CHOICES}


def _form_of(value: Any) -> str | None:
    if isinstance(value, str):
        return "<string>"
    if isinstance(value, dict):
        keys = {"words": "<words>", "choices": "<choices>", "text_pair": "<pair>", "text": "<text>"}
        return next((tag for key, tag in keys.items() if key in value), None)
    return None


Sentence = Annotated[
    Annotated[Text, Tag("<string>")]
    | Annotated[SingleText, Tag("<text>")]
    | Annotated[Pair, Tag("<pair>")]
    | Annotated[Words, Tag("<words>")]
    | Annotated[Choices, Tag("<choices>")],
    Discriminator(
        _form_of,
        custom_error_type="sentence",
        custom_error_message='it should be a string, {"text": ..., "text_pair": ...}, {"words": [...]} or {"text": ...,'
        ' "choices": [...]}',
    ),
]
TaskNumber = Annotated[int, Field(strict=True, ge=1), BeforeValidator(_whole)]
OneTask = Annotated[
    Annotated[str, Tag("<name>")] | Annotated[TaskNumber, Tag("<number>")],
    Discriminator(lambda value: "<name>" if isinstance(value, str) else "<number>"),
]


class PredictRequest(_Strict):
    """A request for predictions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"sentences": ["wake me at seven tomorrow"]},
                {"sentences": ["wake me at seven tomorrow", {"words": ["play", "some", "jazz"]}], "top_k": 3},
            ]
        }
    )
    sentences: Annotated[list[Sentence], Field(min_length=1)]
    # Optional, but not null: `task` and `tasks` exclude each other, which a schema can only say of keys.
    tasks: Annotated[
        list[str],
        Field(default=None, min_length=1, description="Names of tasks. Default: all that read the sentences."),
    ]
    task: Annotated[OneTask, Field(default=None, description="One task, by its name or its number from 1.")]
    top_k: (
        Annotated[int, Field(ge=1, le=2**31, description="Number of labels; null for all."), BeforeValidator(_whole)]
        | None
    ) = 1
    embeddings: Annotated[bool, Field(description="Whether to add the embedding of each sentence.")] = False


class EmbedRequest(_Strict):
    """A request for embeddings."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sentences": ["a cat sleeps", "a kitten naps"]}]})
    sentences: Annotated[list[Sentence], Field(min_length=1)]
    normalize: Annotated[bool, Field(description="Whether to scale each embedding to length 1.")] = False


class Prediction(BaseModel):
    """The predictions for one sentence."""

    tasks: dict[str, Any]
    cut: Annotated[bool, Field(description="Whether the sentence was truncated to the model's `max_length`.")]
    embedding: list[float] | None = None


class PredictResponse(BaseModel):
    """Predictions, in the order of the sentences."""

    model: str
    predictions: list[Prediction]


class EmbedResponse(BaseModel):
    """Embeddings, in the order of the sentences."""

    model: str
    embeddings: list[list[float]]
    cut: list[bool]


def texts_of(sentences: list[Any], limits: Limits) -> tuple[list[Any], list[int]]:
    """The sentences as `MultiTaskModel.predict` takes them, and the characters that the encoder reads of each.

    Raises:
        ProblemError: There are too many, or one is too long.
    """
    if len(sentences) > limits.sentences:
        raise ProblemError(
            422,
            f"there are {len(sentences):,} sentences; at most {limits.sentences} are allowed.",
            field="sentences",
        )
    found, sizes = [], []
    for number, sentence in enumerate(sentences):
        text, size = _text(sentence)
        if size > limits.characters:
            raise ProblemError(
                422,
                f"the encoder would read {size:,} characters; at most {limits.characters:,} are allowed.",
                field=f"sentences.{number}",
            )
        found.append(text)
        sizes.append(size)
    return found, sizes


def _text(sentence: Any) -> tuple[Any, int]:
    if isinstance(sentence, str):
        return sentence, len(sentence)
    if isinstance(sentence, Words):
        return sentence.words, sum(map(len, sentence.words)) + len(sentence.words)
    if isinstance(sentence, Pair):
        return (sentence.text, sentence.text_pair), len(sentence.text) + len(sentence.text_pair)
    if isinstance(sentence, Choices):  # the text is read with each of its choices
        size = sum(len(sentence.text) + len(choice) for choice in sentence.choices)
        return (sentence.text, sentence.choices), size
    return sentence.text, len(sentence.text)


def kind_of_sentence(sentence: Any) -> str:
    """The kind of texts that a sentence is, a value of `encoding.KINDS`."""
    return PAIRS if isinstance(sentence, Pair) else CHOICES if isinstance(sentence, Choices) else SINGLE


def tasks_of(request: PredictRequest, model: ServedModel) -> list[str]:
    """The tasks that a request is for, each of which reads at least one of its sentences.

    Raises:
        ProblemError: A task does not exist, or reads none of the sentences; or no task reads a sentence.
    """
    requested, field = _requested(request, model)
    if request.embeddings and model.no_embeddings:
        raise ProblemError(422, f"the model has no embeddings: {model.no_embeddings}.", field="embeddings")
    kinds = [kind_of_sentence(sentence) for sentence in request.sentences]
    tasks = list(model.tasks) if requested is None else requested
    chosen = [name for name in tasks if model.tasks[name].reads in kinds]
    if requested is not None and len(chosen) < len(tasks):
        name = next(name for name in tasks if name not in chosen)
        raise ProblemError(
            422, f"the task {name!r} reads {model.tasks[name].reads}, and there are none in `sentences`.", field=field
        )
    read = {model.tasks[name].reads for name in chosen}
    for number, kind in enumerate(kinds):
        if kind not in read and not (request.embeddings and kind != CHOICES):
            known = sorted({model.tasks[name].reads for name in tasks})
            raise ProblemError(
                422,
                f"no requested task reads {kind}; the tasks read {', '.join(known) or 'nothing'}.",
                field=f"sentences.{number}",
            )
    return chosen


def _requested(request: PredictRequest, model: ServedModel) -> tuple[list[str] | None, str]:
    """The tasks that a request names, None for all; and the field that names them."""
    names = list(model.tasks)
    if request.task is not None:
        if request.tasks is not None:
            raise ProblemError(422, "give `task` or `tasks`, not both.", field="task")
        if isinstance(request.task, int):
            if request.task > len(names):
                raise ProblemError(422, f"there is no task {request.task}; valid are 1 to {len(names)}.", field="task")
            return [names[request.task - 1]], "task"
        _check_task(request.task, names, "task")
        return [request.task], "task"
    if request.tasks is None:
        return None, "tasks"
    for number, name in enumerate(request.tasks):
        _check_task(name, names, f"tasks.{number}")
    return list(dict.fromkeys(request.tasks)), "tasks"


def _check_task(name: str, names: list[str], field: str) -> None:
    if name not in names:
        raise ProblemError(422, f"there is no such task; valid are {', '.join(names) or 'none'}.", field=field)
