"""The decoders of all task types that make predictions for raw texts, by name. No torch."""

from collections.abc import Mapping
from typing import Any

from ...modeling.decode_extractive_qa import ExtractiveQADecoder
from ...modeling.decode_multi_label_classification import MultiLabelClassificationDecoder
from ...modeling.decode_multiple_choice import MultipleChoiceDecoder
from ...modeling.decode_regression import RegressionDecoder
from ...modeling.decode_sentence_similarity import SentenceSimilarityDecoder
from ...modeling.decode_sequence_classification import SequenceClassificationDecoder
from ...modeling.decode_token_classification import TokenClassificationDecoder
from ...modeling.decoding import Decoder

DECODERS: dict[str, type[Decoder]] = {
    decoder.kind: decoder
    for decoder in (
        SequenceClassificationDecoder,
        MultiLabelClassificationDecoder,
        RegressionDecoder,
        TokenClassificationDecoder,
        SentenceSimilarityDecoder,
        MultipleChoiceDecoder,
        ExtractiveQADecoder,
    )
}


def build_decoder(spec: Mapping[str, Any]) -> Decoder:
    """Build a decoder from the specification of its head.

    Args:
        spec: A value of `MultiTaskConfig.heads`.

    Raises:
        ValueError: The type or an option is unknown.
    """
    if spec["type"] not in DECODERS:
        raise ValueError(f"`type` is {spec['type']!r}; valid are {', '.join(DECODERS)}.")
    decoder = DECODERS[spec["type"]]
    return decoder(decoder.spec_class.from_dict(spec))
