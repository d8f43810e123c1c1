"""`MultiTaskPipeline`: `transformers.pipeline("multi-task", model=...)`, answers of all heads to raw text.

Notable: it is `MultiTaskModel.predict_stream` behind the interface of a pipeline. The stock machinery (texts padded in
the order in which they come) is passed by, because the model itself sorts texts by length; and the tokenizer is the
model's own, which knows whether it has to split words.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import Dataset
from transformers import Pipeline

TASK = "multi-task"


class MultiTaskPipeline(Pipeline):
    """Answers of every head, or of those asked for, in one encoder pass.

    Args:
        **kwargs: Of `transformers.Pipeline` (`model`, `device`, `batch_size`, here 32 by default, ...) and of a call.
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
        """Answer one text or many.

        Args:
            inputs: A text: a string, a pair as a tuple of two strings, or a dict with `text` (a string or a list of
                words) and perhaps `text_pair`. Or a list of texts, in which a text may also be a list of words. Or
                anything else to iterate over (`KeyDataset`, a generator, a column of a dataset): it is streamed.
            **options: `heads`, `top_k`, `embeddings` and `batch_size`, as of `MultiTaskModel.predict_stream`; those
                given when the pipeline was made are the default.

        Returns:
            Of a text task → answer, as `MultiTaskModel.predict` gives it, with `"cut": True` if the text was cut; of a
            list the list of these, of a stream an iterator over them.

        Raises:
            ValueError: Something that is no text, or a head that the model does not have.
        """
        own = {"batch_size": options.pop("batch_size", self._batch_size)}
        own |= self._forward_params | self._sanitize_parameters(**options)[1]
        if isinstance(inputs, Dataset) and hasattr(inputs, "__len__"):  # may not say where it ends in any other way
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
        """A text as `predict` takes it."""
        if not isinstance(input_, Mapping):
            return input_
        if "text" not in input_ or input_.keys() - {"text", "text_pair"}:
            raise ValueError(f"a text has the keys {list(input_)}; a dict has `text`, and `text_pair` in a pair.")
        pair = input_.get("text_pair")
        return input_["text"] if pair is None else (input_["text"], pair)

    def _forward(self, input_tensors: Iterable[Any], **options: Any) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        return self.model.predict_stream(input_tensors, **options)

    def postprocess(self, model_outputs: Any) -> Any:  # type: ignore[override]
        """Nothing is left to do."""
        return model_outputs
