"""The model that is served, and those that can take its place.

Notable: a model is loaded and tried while the old one goes on answering. Then one assignment swaps them: requests that
were accepted before are answered by the old one.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.utils.hub import cached_file

from ...saved.models import find_checkpoint
from .problems import ProblemError, place_of
from .served_model import ServedModel, TorchModel

logger = logging.getLogger(__name__)

_EXAMPLES = 8  # at most


@dataclass(frozen=True)
class Loaded:
    """A model in memory.

    Attributes:
        id: Its name in answers.
        model: The model.
        examples: Sentences to try it with: strings, or `{"text", "text_pair"}`.
    """

    id: str
    model: ServedModel
    examples: list[Any] = field(default_factory=list)


Load = Callable[[str, str], Loaded]


def load(name: str, id: str, device: str | None = None) -> Loaded:
    """Load a saved multi-task model.

    Args:
        name: See `find_checkpoint`.
        id: Its name in answers.
        device: A device of torch. Default: an accelerator if there is one, else the CPU.

    Raises:
        ValueError: There is no such model, it is damaged, or the device is not available.
    """
    checkpoint = find_checkpoint(name)
    model: Any = checkpoint.load()
    chosen = device or (torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    try:
        model.to(chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` is {chosen}: {' '.join(str(error).split())}") from error
    model.eval()
    served = TorchModel(model)
    served.warm_up()
    return Loaded(id, served, card_examples(checkpoint.path, checkpoint.revision))


def card_examples(path: str, revision: str | None = None) -> list[Any]:
    """The examples in the card of a model (`widget` in the metadata of its README.md), at most eight.

    Args:
        path: A folder, or a Hub id.
        revision: Branch, tag or commit on the Hub.
    """
    options = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    card = cached_file(path, "README.md", revision=revision, **options)
    if card is None:
        return []
    text = Path(card).read_text(encoding="utf-8", errors="replace")
    _, _, rest = text.partition("---\n")
    try:
        metadata = yaml.safe_load(rest.partition("\n---")[0]) if text.startswith("---\n") else None
    except yaml.YAMLError as error:
        logger.warning("%s: its metadata are not YAML, so there are no examples (%s).", card, type(error).__name__)
        return []
    widget = metadata.get("widget") if isinstance(metadata, Mapping) else None
    found = []
    for item in widget if isinstance(widget, list) else []:
        example, pair = (item.get("text"), item.get("text_pair")) if isinstance(item, Mapping) else (None, None)
        if isinstance(example, str) and example.strip():
            found.append({"text": example, "text_pair": pair} if isinstance(pair, str) else example)
    return found[:_EXAMPLES]


def id_of(name: str) -> str:
    """The id of a model in answers: the last part of its name."""
    return Path(name).name or "model"


class Models:
    """The served model.

    Args:
        current: The model to begin with.
        name: Its name, as `load` takes it.
        load: Loads a model by its name and id.
        trained: Returns further models, by their ids.

    Attributes:
        current: The model that answers new requests.
    """

    def __init__(
        self, current: Loaded, name: str, load: Load = load, trained: Callable[[], dict[str, str]] = dict
    ) -> None:
        self.current = current
        self._first = {current.id: name}
        self._load = load
        self._trained = trained
        self._busy = asyncio.Lock()

    def names(self) -> dict[str, str]:
        """Id → name of the models that can be served."""
        return self._trained() | self._first

    async def activate(self, id: str) -> Loaded:
        """Load a model and serve it from then on.

        Raises:
            ProblemError: There is no such model, another one is being loaded, or it cannot be loaded; the served one
                stays.
        """
        name = (await asyncio.to_thread(self.names)).get(id)
        if name is None:
            raise ProblemError(404, "there is no model of this id.")
        if self._busy.locked():
            raise ProblemError(409, "another model is being loaded: try again later.", headers={"Retry-After": "5"})
        async with self._busy:
            loading = asyncio.ensure_future(asyncio.to_thread(self._load, name, id))
            await asyncio.wait([loading])
            error = loading.exception()
            if error is not None:
                reason = str(error) if isinstance(error, ValueError) else place_of(error)
                logger.error("The model %s cannot be loaded, %s is still served: %s", id, self.current.id, reason)
                raise ProblemError(409, f"{id!r} cannot be loaded, {self.current.id!r} is still served: {reason}")
            before, self.current = self.current, loading.result()
        logger.info("Serving %s instead of %s.", id, before.id)
        return self.current
