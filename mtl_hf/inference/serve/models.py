"""The model that is served, and those that can take its place.

Notable: a model is loaded and tried while the old one goes on answering. Then one assignment swaps them: requests that
were accepted before are answered by the old one.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...saved.cards import card_examples
from ..onnx.model import OnnxModel, is_exported
from .problems import ProblemError, place_of
from .served_model import ONNX_ROWS, ModelInMemory, ServedModel

logger = logging.getLogger(__name__)


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


def load(name: str, id: str, device: str | None = None, backend: str | None = None) -> Loaded:
    """Load a saved or an exported model.

    Args:
        name: See `find_checkpoint`; or a folder that `mtl-hf export` wrote.
        id: Its name in answers.
        device: A device of torch. Default: an accelerator if there is one, else the CPU.
        backend: `onnx` for the ONNX graph on the CPU (exported beside the model, if it is not there), `torch` for the
            model itself. Default: the graph on a CPU, if the packages for it are installed and the model can be
            exported.

    Raises:
        ValueError: There is no such model, it is damaged, it cannot be exported, or the device is not available.
        ImportError: A package of the backend is not installed.
    """
    if is_exported(name):
        if backend == "torch" or device not in (None, "cpu"):
            chosen = "`--backend torch`" if backend == "torch" else f"`--device {device}`"
            raise ValueError(f"{name} is an exported model, which runs on the CPU with onnxruntime: remove {chosen}.")
        model: Any = OnnxModel(name)
        served = ModelInMemory(model, ONNX_ROWS)
        examples = card_examples(name)
    else:
        if find_spec("torch") is None:
            raise ImportError(f"{name} is no folder that `mtl-hf export` wrote, and other models need torch.")
        from .backends import load_saved_model

        served, examples = load_saved_model(name, device, backend)
    served.warm_up()
    return Loaded(id, served, examples)


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
