"""Training with experts: their part of the model, idle gates, what is reported of the mixtures, one process and two."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtl_hf
from mtl_hf.config import RunConfig
from mtl_hf.evaluation.report import scores_table
from mtl_hf.inference.export import stock_model
from mtl_hf.training.optimizer import find_parts, set_learning_rates
from tests.conftest import two_source_config
from tests.training import test_equivalence as equivalence
from tests.training import test_masked_lm as masked_lm
from tests.training.conftest import FixedBatches, build, make_trainer, weights

EXPERTS = {"num": 3, "hidden": 8}


def with_experts(encoder: str, output_dir: Path | str = "unused", **training: Any) -> dict[str, Any]:
    config = two_source_config(encoder, output_dir, **training)
    config["model"]["experts"] = EXPERTS
    return config


def test_experts_are_a_part_of_their_own_and_gates_belong_to_heads(encoder_folder: str) -> None:
    parts = find_parts(build(with_experts(encoder_folder)).model)
    names = [part.name for part in parts]
    assert names == ["embeddings", *(f"encoder.layers.{k}" for k in range(3)), "experts",
                     "heads.intent", "heads.slots", "heads.stars", "heads.topics"]  # fmt: skip
    assert all(name.startswith("experts.") for name in parts[4].parameters)
    assert "heads.slots.gate.score.weight" in parts[6].parameters
    set_learning_rates(parts, learning_rate=1.0, head_learning_rate=2.0, layerwise_lr_decay=0.5)
    assert [part.learning_rate for part in parts] == [0.125, 0.25, 0.5, 1, 2, 2, 2, 2, 2]
    set_learning_rates(parts, learning_rate=1.0, learning_rates={"experts": 3.0, "encoder": 0.5})
    assert [part.learning_rate for part in parts] == [0.5, 0.5, 0.5, 0.5, 3, 1, 1, 1, 1]
    set_learning_rates(parts, learning_rate=1.0, learning_rates={"heads": 3.0})
    assert [part.learning_rate for part in parts] == [1, 1, 1, 1, 1, 3, 3, 3, 3], "experts are no heads"
    set_learning_rates(parts, learning_rate=1.0, head_learning_rate=2.0, learning_rates={"experts": 3.0})
    assert [part.learning_rate for part in parts] == [1, 1, 1, 1, 3, 2, 2, 2, 2]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_gate_of_an_idle_head_stays_bit_for_bit_and_experts_move(
    precision: str, encoder_folder: str, tmp_path: Path
) -> None:
    built = build(with_experts(encoder_folder))
    before = weights(built.model)
    first = len(built.train["assistant"])
    only_reviews = FixedBatches([[first, first + 1, first + 2], [first + 3, first + 4, first + 5]] * 3)
    trainer = make_trainer(
        built, tmp_path, batch_sampler=only_reviews, weight_decay=0.1, precision=precision, freeze=["encoder"],
        num_train_epochs=1,
    )  # fmt: skip
    trainer.train()
    after = weights(built.model)
    for part in trainer.parts:
        still = part.name not in ("experts", "heads.stars", "heads.topics")
        for name in part.parameters:
            assert torch.equal(before[name], after[name]) == still, name


def test_frozen_experts_stay_and_gates_move(encoder_folder: str, tmp_path: Path) -> None:
    built = build(with_experts(encoder_folder))
    for parameter in built.model.experts.parameters():
        torch.nn.init.normal_(parameter)  # new ones say nothing, and no gate learns from that
    before = weights(built.model)
    trainer = make_trainer(built, tmp_path, freeze=["experts"], max_steps=2)
    trainer.train()
    after = weights(built.model)
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("experts."))
    assert not torch.equal(before["heads.slots.gate.score.weight"], after["heads.slots.gate.score.weight"])


def test_the_mean_mixture_of_each_task_is_reported_on_one_process_and_two(
    encoder_folder: str, tmp_path: Path, two_processes: Any
) -> None:
    built = build(with_experts(encoder_folder))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for head in built.model.heads.values():
            head.gate.score.weight.copy_(torch.randn(3, 32, generator=generator))
    found = make_trainer(built, tmp_path).score()["experts"]
    model = built.model.eval()
    for task, source in {"slots": "assistant", "stars": "reviews"}.items():
        mixtures = []
        for row in built.validation[source].rows:
            inputs = torch.tensor([row["input_ids"]])
            mixtures.append(model(inputs, heads=task).gates[task].detach().numpy()[0])
        np.testing.assert_allclose(found[task], np.mean(mixtures, 0), atol=1e-5)
    assert max(found["slots"]) - min(found["slots"]) > 0.05
    for rank in two_processes(lambda: make_trainer(built, tmp_path).score()["experts"]):
        for task, numbers in found.items():
            np.testing.assert_allclose(rank[task], numbers, atol=1e-6)


def test_steps_with_experts_are_the_same_however_they_are_split_up(
    still_encoder_folder: str, tmp_path: Path, two_processes: Any
) -> None:
    built = build(equivalence.config(still_encoder_folder, experts=EXPERTS))
    built.model.double()
    for parameter in built.model.experts.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    names = ("one", "accumulated", "two processes")
    found = equivalence.all_splits(built, tmp_path / "run", two_processes, names)
    for name, steps in found.items():
        losses, elements, _ = equivalence.compare(found["one"], steps)
        assert losses < 1e-9, name
        assert elements < 1e-9, name


def test_texts_of_pairs_and_masked_texts_have_mixtures_of_their_own(still_encoder_folder: str, tmp_path: Path) -> None:
    for config in (equivalence.similarity_config(still_encoder_folder), masked_lm.config(still_encoder_folder)):
        config["model"]["experts"] = EXPERTS
        built = build(config)
        trainer = make_trainer(built, tmp_path, max_steps=2)
        trainer.train()
        found = trainer.score()["experts"]
        assert list(found) == list(config["tasks"])
        assert all(sum(mixture) == pytest.approx(1) for mixture in found.values())
    pairs = build(equivalence.similarity_config(still_encoder_folder) | {"model": config["model"]})
    found = make_trainer(pairs, tmp_path).score()["experts"]["alike"]
    gates = []
    for row in equivalence.scored_rows()["validation"]:
        for text in (row["first"], row["second"]):
            inputs = pairs.model.tokenizer(text, return_tensors="pt")
            gates.append(pairs.model.eval()(**inputs, heads="alike").gates["alike"].detach().numpy()[0])
    np.testing.assert_allclose(found, np.mean(gates, 0), atol=1e-5)


def test_a_run_with_experts_is_scored_reported_and_gone_on_from(encoder_folder: str, tmp_path: Path) -> None:
    results = mtl_hf.train(with_experts(encoder_folder, tmp_path / "run", max_steps=2))
    written = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert written["experts"] == results["experts"]
    assert list(results["experts"]) == ["intent", "slots", "stars", "topics"]
    assert all(sum(mixture) == pytest.approx(1) for mixture in results["experts"].values())
    table = scores_table(results)
    assert "mean weight of expert" in table
    assert "The mean mixtures of intent and slots overlap by " in table
    model = mtl_hf.MultiTaskModel.from_pretrained(tmp_path / "run")
    with pytest.raises(ValueError, match="`intent` cannot be exported: it uses a mixture of experts"):
        stock_model(model, "intent")

    config = two_source_config("", tmp_path / "second", max_steps=1)
    config["model"] = {"from": str(tmp_path / "run")}
    config["tasks"]["intent"]["dropout"] = 0.2  # a head that is built anew
    assert list(mtl_hf.train(config)["experts"]) == ["intent", "slots", "stars", "topics"]
    config["model"]["experts"] = {"num": 5, "hidden": 8}
    config["training"]["output_dir"] = str(tmp_path / "third")
    with pytest.raises(ValueError, match=r"`experts` is .*5.* were trained with experts"):
        mtl_hf.train(config)


def test_overlap_of_mean_mixtures_by_hand() -> None:
    results = {"tasks": {}, "joint": {}, "rows": {}, "score": float("nan"),
               "experts": {"ner": [0.7, 0.3], "mood": [0.2, 0.8]}}  # fmt: skip
    assert scores_table(results).splitlines()[-4:] == [
        "mean weight of expert          1       2",
        "ner                         0.70    0.30",
        "mood                        0.20    0.80",
        "The mean mixtures of ner and mood overlap by 50%.",
    ]


@pytest.mark.parametrize(
    ("experts", "expected"),
    [
        ({"num": 4}, r"`model\.experts\.hidden` is missing; it should be a whole number of at least 1"),
        ({"num": 1, "hidden": 8}, r"`model\.experts\.num` is 1; it should be a whole number of at least 2"),
        ({"number": 4, "hidden": 8}, r"unknown key `number` in `model\.experts`"),
    ],
)
def test_experts_of_a_config_are_checked_when_it_is_read(experts: dict[str, int], expected: str) -> None:
    config = with_experts("encoder")
    config["model"]["experts"] = experts
    with pytest.raises(ValueError, match=expected):
        RunConfig.load(config)
