"""Tests of decoders: they need no torch, and group outputs by row as the heads of torch do."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from mtl_hf.inference.onnx.decoders import DECODERS, build_decoder
from mtl_hf.modeling.head import EncoderShape, HeadInputs
from mtl_hf.modeling.heads import HEADS, build_head

LABELLED = {
    "sequence_classification": ["a", "b", "c"],
    "multi_label_classification": ["a", "b", "c"],
    "token_classification": ["O", "B-x", "I-x"],
}


def test_every_type_that_answers_texts_has_a_decoder() -> None:
    own = {kind: head for kind, head in HEADS.items() if head.__module__.startswith("mtl_hf.")}
    assert {kind for kind, head in own.items() if head.answers_texts} == set(DECODERS)
    assert all(own[kind].decoder_class is decoder for kind, decoder in DECODERS.items())
    with pytest.raises(ValueError, match="`type` is 'masked_lm'; valid are sequence_classification"):
        build_decoder({"type": "masked_lm"})


def test_decoding_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import json, sys, mtl_hf.inference.onnx.decoders, mtl_hf.modeling.texts; print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "tokenizers" in loaded
    assert not loaded & {"torch", "transformers", "datasets", "sklearn", "scipy"}


@pytest.mark.parametrize("kind", list(DECODERS))
@pytest.mark.parametrize("several", [False, True])
def test_outputs_are_grouped_as_by_the_head(kind: str, several: bool) -> None:
    torch.manual_seed(0)
    spec: dict[str, Any] = {"type": kind} | ({"labels": LABELLED[kind]} if kind in LABELLED else {})
    head = build_head(spec, EncoderShape(8)).eval()
    decoder = build_decoder(spec)
    counts = {"multiple_choice": [3, 2, 1], "sentence_similarity": [2, 2, 2]}.get(kind)
    if several and counts is None and head.windows:
        counts = [1, 3, 2]
    lengths = torch.tensor([4, 6, 1, 5, 2, 6])
    mask = (torch.arange(6) < lengths[:, None]).long()
    states = torch.randn(6, 6, 8)
    num_segments = None if counts is None else torch.tensor(counts)
    inputs = HeadInputs(attention_mask=mask, num_segments=num_segments)
    with torch.no_grad():
        expected = head.by_row(head(states, mask, inputs), inputs).numpy()
        alone = head(states, mask).numpy()  # an exported graph knows segments only
    batch = {"attention_mask": mask.numpy()} | ({} if counts is None else {"num_segments": np.array(counts)})
    np.testing.assert_allclose(decoder.by_row(alone, batch), expected, rtol=1e-5, atol=1e-6)
