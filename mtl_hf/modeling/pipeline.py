"""`MultiTaskPipeline`: `transformers.pipeline("multi-task", model=...)`, predictions of all heads for raw text.

Notable: it is `MultiTaskModel.predict_stream` with the interface of a pipeline. It does not use the stock batching
(texts padded in the order in which they come), because the model sorts texts by length; and it uses the model's own
tokenizer, which is set up for lists of words if a head needs them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import Dataset
from transformers import Pipeline

TASK = "multi-task"


class MultiTaskPipeline(Pipeline):
    """Predictions of all heads, or some, in one encoder pass.

    Args:
        **kwargs: Arguments of `transformers.Pipeline` (`model`, `device`, `batch_size` (default: 32), ...), and
            defaults for the options of a call.
    """

    model: Any
    tokenizer: Any
    _load_tokenizer: Any = False
    _load_processor: Any = False
    _load_feature_extractor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"batch_size": 32} | kwargs)
        if self.tokenizer is None:
            self.tokenizer = self.model.tokenizer
        else:
            self.model.tokenizer = self.tokenizer

    def __call__(self, inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        """Predict for one text or many.

        Args:
            inputs: A text: a string, a pair as a tuple of two strings, or a dict with `text` (a string or a list of
                words) and optionally `text_pair`. Or a list of texts, in which a text may also be a list of words. Or
                any other iterable (`KeyDataset`, a generator, a column of a dataset), which is streamed.
            **options: `heads`, `top_k`, `embeddings` and `batch_size`, as in `MultiTaskModel.predict_stream`. Defaults:
                those given when the pipeline was created.

        Returns:
            For a text, task → prediction, as in `MultiTaskModel.predict`, with `"cut": True` if it was truncated; for a
            list, a list of these; for a stream, an iterator over them.

        Raises:
            ValueError: An item is not a text, or the model has no such head.
        """
        own = {"batch_size": options.pop("batch_size", self._batch_size)}
        own |= self._forward_params | self._sanitize_parameters(**options)[1]
        if isinstance(inputs, Dataset) and hasattr(inputs, "__len__"):  # iterating over it may not stop at its end
            inputs = map(inputs.__getitem__, range(len(inputs)))
        if isinstance(inputs, str | tuple | Mapping) or not isinstance(inputs, Iterable):
            (found,) = self._forward([self.preprocess(inputs)], **own)
            return found
        answers = self._forward(map(self.preprocess, inputs), **own)
        return list(answers) if isinstance(inputs, list) else answers

    def _sanitize_parameters(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown := options.keys() - {"heads", "top_k", "embeddings"}:
            raise ValueError(
                f"the pipeline takes `heads`, `top_k`, `embeddings` and `batch_size`, not {sorted(unknown)}."
            )
        return {}, options, {}

    def preprocess(self, input_: Any) -> Any:  # type: ignore[override]
        """Convert an input to the form that `predict` takes."""
        if not isinstance(input_, Mapping):
            return input_
        if "text" not in input_ or input_.keys() - {"text", "text_pair"}:
            raise ValueError(f"a text has the keys {list(input_)}; valid are `text` and, for a pair, `text_pair`.")
        pair = input_.get("text_pair")
        return input_["text"] if pair is None else (input_["text"], pair)

    def _forward(self, input_tensors: Iterable[Any], **options: Any) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        return self.model.predict_stream(input_tensors, **options)

    def postprocess(self, model_outputs: Any) -> Any:  # type: ignore[override]
        """Return the predictions unchanged."""
        return model_outputs
