"""`mtl-hf merge`: a plain model with the same answers, or the reason why there is none."""

import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import mtl_hf
from mtl_hf import cli
from mtl_hf.modeling.adapters import adapter_parameters
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import SENTENCES

LORA = {"type": "LoraConfig", "r": 4, "target_modules": "all-linear"}


def save(encoder: str, folder: Path, **spec: Any) -> MultiTaskModel:
    """A model with two heads and adapters that do something, and its folder."""
    model = MultiTaskModel.from_encoder(encoder)
    model.add_head("intent", type="sequence_classification", labels=["music", "booking"])
    model.add_head("stars", type="regression")
    model.adapt(**spec)
    owners = adapter_parameters(model.encoder)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if name in owners:
                parameter.add_(0.1 * torch.randn_like(parameter))
    for head in model.config.heads.values():
        head["num_steps"] = 1
    model.save_pretrained(folder)
    return model


def logits(model: MultiTaskModel, **options: Any) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model(**model.tokenizer(SENTENCES, padding=True, return_tensors="pt"), **options).logits


def test_a_shared_adapter_is_merged_and_the_folder_needs_no_peft(encoder_folder, tmp_path, caplog, monkeypatch):
    model = save(encoder_folder, tmp_path / "lora", **LORA)
    with caplog.at_level(logging.INFO, "mtl_hf"):
        cli.main(["merge", str(tmp_path / "lora"), "--to", str(tmp_path / "merged")])
    assert f"written to {tmp_path / 'merged'} (heads: intent, stars)." in caplog.text
    monkeypatch.setitem(sys.modules, "peft", None)
    merged = MultiTaskModel.from_pretrained(tmp_path / "merged")
    wanted, found = logits(model), logits(merged)
    assert wanted.keys() == found.keys()
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)
    # What stock classes cannot hold, they can hold now.
    assert mtl_hf.export_encoder(tmp_path / "merged", tmp_path / "encoder").is_dir()


def test_a_task_beside_an_adapter_of_all_heads_is_refused(encoder_folder, tmp_path):
    save(encoder_folder, tmp_path / "lora", **LORA)
    with pytest.raises(ValueError, match=r"`task` is 'stars', but all heads share one adapter, .*: remove `--task`"):
        mtl_hf.merge_adapters(tmp_path / "lora", tmp_path / "merged", task="stars")
    assert not (tmp_path / "merged").exists()


def test_help_promises_the_same_answers_to_rounding_only(capsys):
    with pytest.raises(SystemExit):
        cli.main(["merge", "--help"])
    assert "equal up to rounding (in bf16 the prediction" in " ".join(capsys.readouterr().out.split())


def test_of_an_adapter_a_task_one_is_chosen(encoder_folder, tmp_path):
    model = save(encoder_folder, tmp_path / "lora", **LORA, per_task=True)
    with pytest.raises(ValueError, match=r"several adapters \(intent, stars\), .* choose it with `task`"):
        mtl_hf.merge_adapters(tmp_path / "lora", tmp_path / "merged")
    with pytest.raises(ValueError, match=r"has no head 'star'\. Did you mean `stars`"):
        mtl_hf.merge_adapters(tmp_path / "lora", tmp_path / "merged", task="star")
    assert not (tmp_path / "merged").exists()
    cli.main(["merge", str(tmp_path / "lora"), "--to", str(tmp_path / "merged"), "--task", "stars"])
    merged = MultiTaskModel.from_pretrained(tmp_path / "merged")
    assert list(merged.heads) == ["stars"]
    assert torch.allclose(logits(merged)["stars"], logits(model, heads="stars")["stars"], atol=1e-5)


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(encoder_folder, tmp_path):
    save(encoder_folder, tmp_path / "bottleneck", type="BottleneckConfig")
    with pytest.raises(ValueError, match=r"bottleneck: this adapter cannot be merged .* not linear"):
        mtl_hf.merge_adapters(tmp_path / "bottleneck", tmp_path / "merged")
    save(encoder_folder, tmp_path / "lora", **LORA)
    (tmp_path / "lora" / "merged").mkdir()
    with pytest.raises(ValueError, match="is not empty"):
        mtl_hf.merge_adapters(tmp_path / "lora", tmp_path / "lora")
    mtl_hf.merge_adapters(tmp_path / "lora", tmp_path / "plain")
    with pytest.raises(ValueError, match="plain: the model has no adapters to merge"):
        mtl_hf.merge_adapters(tmp_path / "plain", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_merge_that_does_not_answer_as_before_is_not_written(encoder_folder, tmp_path, monkeypatch):
    save(encoder_folder, tmp_path / "lora", **LORA)
    monkeypatch.setattr("mtl_hf.modeling.changes.merge_adapter", mtl_hf.modeling.adapters.remove_adapters)
    with pytest.raises(ValueError, match="cannot be merged, the outputs would change"):
        mtl_hf.merge_adapters(tmp_path / "lora", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("per_task", [False, True])
def test_exports_name_the_merge(per_task, encoder_folder, tmp_path):
    save(encoder_folder, tmp_path / "lora", **LORA, per_task=per_task)
    hint = r"merge them first with `mtl-hf merge .*lora --to FOLDER" + (" --task TASK`" if per_task else "`")
    with pytest.raises(ValueError, match=hint):
        mtl_hf.export_encoder(tmp_path / "lora", tmp_path / "encoder")
    with pytest.raises(ValueError, match=hint):
        mtl_hf.export_head(tmp_path / "lora", "intent", tmp_path / "head")


def test_a_head_that_reads_experts_is_not_sent_to_the_merge(encoder_folder, tmp_path):
    model = mtl_hf.MultiTaskModel.from_encoder(encoder_folder, experts={"num": 2, "hidden": 4})
    model.add_head("intent", type="sequence_classification", labels=["play", "book"])
    model.adapt(**LORA)
    model.save_pretrained(tmp_path / "both")
    with pytest.raises(ValueError, match="`intent` cannot be exported: it uses a mixture of experts"):
        mtl_hf.export_head(tmp_path / "both", "intent", tmp_path / "head")
    with pytest.raises(ValueError, match="merge them first"):
        mtl_hf.export_encoder(tmp_path / "both", tmp_path / "encoder")
