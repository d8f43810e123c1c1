"""Runs with a CRF, an alignment and a mix of layers: steps, scores, saved models, and what is refused."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

import mtl_hf
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.modeling.tags import IGNORE_INDEX, UNLABELLED
from mtl_hf.modeling.viterbi import best_sequences
from tests.conftest import TRAINING, assistant_rows
from tests.training.conftest import build
from tests.training.test_equivalence import all_splits, compare, config

OPTIONS = {"crf": True, "alignment": "mean", "layers": "mix"}


def spans_config(encoder: str, output: Path, slots: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    """Intent and slots of the assistant's rows, with spans of two words and some words without a tag."""
    rows = assistant_rows().to_list()
    for number, row in enumerate(rows):
        tags = row["slots"]
        row["tokens"] = [f"{word}zzy" if word in ("play", "book") else word for word in row["tokens"]]
        for place, tag in enumerate(tags[:-1]):
            if tag == "B-city":
                tags[place + 1] = "I-city"
        if number % 3 == 0:
            tags[0] = None
    held_out = [row | {"tokens": [*row["tokens"], "please"], "slots": [*row["slots"], "O"]} for row in rows[:12]]
    data = datasets.DatasetDict(train=datasets.Dataset.from_list(rows), validation=datasets.Dataset.from_list(held_out))
    return {
        "model": {"encoder": encoder},
        "sources": {"assistant": {"dataset": data, "text": "tokens"}},
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
            "slots": {"type": "token_classification", "source": "assistant", "label": "slots"} | (slots or {}),
        },
        "training": TRAINING | {"output_dir": str(output), "learning_rate": 1e-3} | training,
    }


def test_steps_in_float64_are_the_same_to_1e_9(still_encoder_folder, tmp_path, two_processes):
    given = config(still_encoder_folder)
    given["tasks"]["slots"] |= OPTIONS
    built = build(given)
    built.model.double()
    rows = built.train["assistant"].to_dict()
    assert {UNLABELLED, 0, 1} <= {tag for tags in rows["label:slots"] for tag in tags}
    assert IGNORE_INDEX not in {tag for tags in rows["label:slots"] for tag in tags}
    found = all_splits(built, tmp_path / "run", two_processes, ["one", "accumulated", "two processes"])
    for name, steps in found.items():
        losses, elements, _ = compare(found["one"], steps)
        assert losses < 1e-9, name
        assert elements < 1e-9, name


def test_a_run_is_scored_saved_and_evaluated(encoder_folder, tmp_path, caplog):
    given = spans_config(encoder_folder, tmp_path / "run", OPTIONS, head_learning_rate=0.05)
    results = mtl_hf.train(given)
    slots = results["tasks"]["slots"]
    assert math.isfinite(slots["cross_entropy"])
    weights = results["layer_mix"]["slots"]
    assert list(results["layer_mix"]) == ["slots"]
    assert len(weights) == 4
    assert sum(weights) == pytest.approx(1)
    assert max(weights) - min(weights) > 1e-3, "the mix should be trained"
    assert f"{weights[0]:.3f}, {weights[1]:.3f}" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    saved = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["heads"]
    assert {key: saved["slots"][key] for key in OPTIONS} == OPTIONS
    assert not {*OPTIONS} & {*saved["intent"]}
    model = MultiTaskModel.from_pretrained(tmp_path / "run")
    assert model.heads["slots"].crf.transitions.abs().max() > 0
    # The run's own config is not needed: the saved head decides, also against another config.
    plain = spans_config(encoder_folder, tmp_path / "other")
    again = mtl_hf.evaluate(tmp_path / "run", config=plain, split="validation", to=tmp_path / "scores")
    assert again["tasks"]["slots"]["cross_entropy"] == pytest.approx(slots["cross_entropy"], rel=1e-5)
    assert again["tasks"]["slots"]["f1"] == slots["f1"]
    rows = given["sources"]["assistant"]["dataset"]["validation"]
    tagged = map(json.loads, (tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
    answers = model.predict([row["tokens"] for row in rows], heads="slots")
    for row, found, answer in zip(rows, tagged, answers, strict=True):
        tags = found["tasks"]["slots"]["predicted"]
        if None not in row["slots"]:  # else the tags of words without a label are not in the file
            assert len(answer["slots"]) == sum(tag.startswith("B-") for tag in tags), "every span begins with a B-"
    with pytest.raises(ValueError, match="`layers: mix` and `alignment: mean` and `crf: true`, which no stock class"):
        mtl_hf.export_head(tmp_path / "run", "slots", tmp_path / "stock")


def test_cross_entropy_is_that_of_the_marginals(encoder_folder, tmp_path):
    given = spans_config(encoder_folder, tmp_path / "run", {"crf": True})
    results = mtl_hf.train(given)
    model = MultiTaskModel.from_pretrained(tmp_path / "run").eval()
    head, losses = model.heads["slots"], []
    for row in given["sources"]["assistant"]["dataset"]["validation"]:
        encoded = model.tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")
        words = encoded.word_ids()
        starts = [words.index(word) for word in range(len(row["tokens"]))]
        with torch.no_grad():
            logits = model(**encoded, heads="slots").logits["slots"][0, starts].numpy()
        _, marginals = best_sequences(logits, np.array([len(starts)]), head.decoding_weights(), head.spec.labels)
        gold = [(place, head.spec.labels.index(tag)) for place, tag in enumerate(row["slots"]) if tag is not None]
        losses += [-math.log(marginals[pair]) for pair in gold]
    assert results["tasks"]["slots"]["cross_entropy"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_an_idle_head_stays_as_it_is(encoder_folder, tmp_path):
    given = spans_config(encoder_folder, tmp_path / "run", OPTIONS)
    built = build(given)
    before = {name: tensor.clone() for name, tensor in built.model.heads["slots"].state_dict().items()}
    ids = torch.tensor([[2, 7, 3]])
    built.model.train()
    loss = built.model(input_ids=ids, labels={"intent": torch.tensor([0])}, heads="intent").loss
    loss.backward()
    assert all(parameter.grad is None for parameter in built.model.heads["slots"].parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in built.model.heads["slots"].state_dict().items())


@pytest.mark.parametrize(
    "training",
    [
        {"loss_balancing": "gradnorm"},
        {"gradient_aggregation": "UPGrad"},
        {"precision": "bf16", "layerwise_lr_decay": 0.5, "freeze": ["embeddings"]},
    ],
    ids=["gradnorm", "upgrad", "bf16"],
)
def test_it_trains_with_other_features(training, encoder_folder, tmp_path):
    if {"gradient_aggregation", "loss_balancing"} & {*training}:
        pytest.importorskip("torchjd")
    results = mtl_hf.train(spans_config(encoder_folder, tmp_path / "run", OPTIONS, max_steps=3, **training))
    assert math.isfinite(results["tasks"]["slots"]["cross_entropy"])


def test_a_kept_head_keeps_its_options_and_gets_others(encoder_folder, tmp_path, caplog):
    mtl_hf.train(spans_config(encoder_folder, tmp_path / "first", {"alignment": "max"}))
    caplog.set_level(logging.INFO, "mtl_hf")
    given = spans_config(encoder_folder, tmp_path / "second", {"crf": True, "layers": "mix"})
    given["model"] = {"from": str(tmp_path / "first")}
    mtl_hf.train(given)
    assert any("crf.transitions, layer_mix" in message or "crf.transitions" in message for message in caplog.messages)
    saved = json.loads((tmp_path / "second" / "config.json").read_text(encoding="utf-8"))["heads"]["slots"]
    assert {key: saved[key] for key in OPTIONS} == OPTIONS | {"alignment": "max"}
    caplog.clear()
    given = spans_config(encoder_folder, tmp_path / "third", {"crf": False, "alignment": "first"})
    given["model"] = {"from": str(tmp_path / "second")}
    mtl_hf.train(given)
    saved = json.loads((tmp_path / "third" / "config.json").read_text(encoding="utf-8"))["heads"]["slots"]
    assert (saved["crf"], saved["alignment"], saved["layers"]) == (False, "first", "mix")
    assert any("are left out" in message and "crf.start" in message for message in caplog.messages)
    model = MultiTaskModel.from_pretrained(tmp_path / "third")
    assert model.heads["slots"].crf is None


@pytest.mark.parametrize(
    ("slots", "training", "message"),
    [
        ({"crf": True, "label_smoothing": 0.1}, {}, r"`tasks\.slots\.label_smoothing` is 0\.1.*`crf: true`"),
        ({"crf": True, "focal_loss": 2.0}, {}, r"`tasks\.slots\.focal_loss` cannot be used with `crf: true`"),
        (
            {"crf": True, "class_weights": "balanced"},
            {},
            r"`tasks\.slots\.class_weights` cannot be used with `crf: true`",
        ),
        ({"alignment": "middle"}, {}, r"tasks\.slots\.alignment.*middle.*first, last, mean"),
        ({"layers": "all"}, {}, r"tasks\.slots\.layers.*all"),
        (
            {"layers": "mix"},
            {"freeze": ["embeddings", "encoder.layers.0"], "frozen_cache": "1GB"},
            "`layers: mix` reads the output of every layer",
        ),
    ],
)
def test_what_cannot_be_is_refused(slots, training, message, encoder_folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        mtl_hf.train(spans_config(encoder_folder, tmp_path / "run", slots, **training), dry_run=True)


def test_cached_states_go_with_alignment_and_crf(encoder_folder, tmp_path):
    slots = {"crf": True, "alignment": "last"}
    frozen = {"freeze": ["encoder"]}
    plain = mtl_hf.train(spans_config(encoder_folder, tmp_path / "plain", slots, **frozen))
    cached = mtl_hf.train(spans_config(encoder_folder, tmp_path / "cached", slots, **frozen, frozen_cache="1GB"))
    found, expected = cached["tasks"]["slots"], plain["tasks"]["slots"]
    assert found["cross_entropy"] == pytest.approx(expected["cross_entropy"], rel=1e-3)
