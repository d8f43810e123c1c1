"""Tests of `mtl_hf.modeling.alignment` against a loop over words."""

import copy

import pytest
import torch
from torch import Tensor

from mtl_hf.modeling.alignment import align
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.tags import ALIGNMENTS
from mtl_hf.modeling.texts import encode_texts, padded_batches

# Words of 1 to 3 tokens, one that follows a word of another row at the row's end, a row without words.
WORD_IDS = torch.tensor([[-1, 0, 0, 0, 1, 2, 2, -1], [3, 3, 4, -1, -1, -1, -1, -1], [-1] * 8, [0, 1, 1, 2, 2, 3, 3, 3]])


def by_loop(states: Tensor, word_ids: Tensor, alignment: str) -> Tensor:
    rows = []
    for row, words in zip(states, word_ids.tolist(), strict=True):
        found = list(row)
        for word in {*words} - {-1}:
            own = [row[place] for place, other in enumerate(words) if other == word]
            state = {
                "last": own[-1],
                "mean": sum(own) / len(own),
                "max": torch.stack(own).max(0).values,
            }[alignment]
            found = [state if other == word else old for other, old in zip(words, found, strict=True)]
        rows.append(torch.stack(found))
    return torch.stack(rows)


@pytest.mark.parametrize("alignment", ALIGNMENTS[1:])
def test_states_are_those_of_a_loop_over_words(alignment: str) -> None:
    states = -1 - torch.rand(4, 8, 5, dtype=torch.float64)  # negative: a zero would win a maximum
    states.requires_grad_()
    found, expected = align(states, WORD_IDS, alignment), by_loop(states, WORD_IDS, alignment)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    weights = torch.randn_like(found)
    gradients = [torch.autograd.grad((one * weights).sum(), states)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)


def test_first_changes_nothing_and_needs_no_words() -> None:
    states = torch.randn(2, 3, 4)
    assert align(states, None, "first") is states


def test_a_batch_without_words_is_refused(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("slots", type="token_classification", labels=["O", "B-city"], alignment="mean")
    model.config.heads["slots"]["num_steps"] = 1
    with pytest.raises(ValueError, match=r"`alignment: mean` needs `word_ids`"):
        model(input_ids=torch.tensor([[2, 7, 3]]))
    with pytest.raises(ValueError, match="`alignment` is 'middle'; valid are first, last, mean, max"):
        model.add_head("tags", type="token_classification", labels=["O", "B-city"], alignment="middle")


def test_predict_aligns_words_in_every_batch(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("slots", type="token_classification", labels=["N", "V", "D"])
    model.add_head("means", type="token_classification", labels=["N", "V", "D"], alignment="mean")
    model.add_head("intent", type="sequence_classification", labels=["a", "b"])
    for name, spec in model.config.heads.items():
        spec["num_steps"] = 1
        for parameter in model.heads[name].parameters():
            torch.nn.init.normal_(parameter)
    model.heads["means"].classifier = copy.deepcopy(model.heads["slots"].classifier)
    texts = [["xyzzyrome", "is", "warm"], ["oslo"], ["reservejazz", "albumalbum", "in", "oslo"]]
    encoded = encode_texts(model, texts, "words", ["slots", "means"])
    assert any(len(ids) > len(words) + 2 for ids, words in zip(encoded["input_ids"], texts, strict=True))
    together = model.predict(texts)
    for text, found in zip(texts, together, strict=True):
        (alone,) = model.predict([text], heads="means")
        assert [word["label"] for word in alone["means"]] == [word["label"] for word in found["means"]]
        encoded = encode_texts(model, [text], "words", ["means"])
        ((_, arrays),) = padded_batches(model, encoded, 1)
        batch = model.to_tensors(arrays)
        states = model.encoder(batch["input_ids"]).last_hidden_state
        logits = model.heads["slots"].classifier(by_loop(states, batch["word_ids"], "mean"))[0]
        expected = [logits[place].argmax().item() for place in encoded["word_starts"][0]]
        assert [word["label"] for word in found["means"]] == ["NVD"[label] for label in expected]
    assert any(found["means"] != found["slots"] for found in together)
