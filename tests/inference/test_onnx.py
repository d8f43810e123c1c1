"""Exported models answer as the model does, without torch; what cannot be exported or is damaged is refused."""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mtl_hf
from mtl_hf.inference import OnnxModel
from mtl_hf.inference.onnx import export as export_module
from mtl_hf.inference.onnx.export import export_onnx
from mtl_hf.inference.onnx.graph import Graph, write_graph
from mtl_hf.inference.serve.models import load
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.answers import assert_same
from tests.conftest import FAMILIES, SENTENCES, two_source_config, warnings_of
from tests.test_encoders import FAMILIES as MORE_FAMILIES
from tests.test_encoders import save

LONG = " ".join(SENTENCES)
TEXTS: list[Any] = [
    *SENTENCES, "", "rome", LONG, ["play", "jazz", "in", "rome"], [], ("a cat sleeps", "a kitten naps"), (LONG, "rome"),
    ("what to play", ["jazz", "some rock today", "news"]), ("where", ["rome"]),
]  # fmt: skip
BIO = ["O", "B-city", "I-city", "B-when"]


def add_heads(model: MultiTaskModel) -> None:
    """Heads of all types, some called like operations and outputs of the graph."""
    model.add_head("softmax", type="sequence_classification", labels=["a", "b", "c"], pooling="max")
    model.add_head("add", type="token_classification", labels=BIO, crf=True, alignment="mean")
    model.add_head("embedding", type="regression", pooling="attention", layers="mix")
    model.add_head("logits_add", type="multi_label_classification", labels=["x", "y"], thresholds=[0.4, 0.6])
    if model.config.overflow == "truncate":
        model.add_head("same", type="sentence_similarity")
        model.add_head("entails", type="sequence_classification", labels=["no", "yes"], text="pair")
        model.add_head("answer", type="multiple_choice")
        model.add_head("span", type="extractive_qa", max_answer_length=4)
        model.add_head("mlm", type="masked_lm")


def enlarge(model: MultiTaskModel) -> MultiTaskModel:
    """Larger weights: new heads predict the same for every text, and new adapters and experts change nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "heads." in name:
                parameter.mul_(20)
            if "crf" in name or "lora_B" in name or "experts" in name or ".up." in name:
                parameter.normal_(0, 0.3)
    for spec in model.config.heads.values():
        spec["num_steps"] = 1
    return model.eval()


def saved(folder: Path, encoder: str, change: Callable[[MultiTaskModel], None] | None = None, **options: Any) -> Path:
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(encoder, **{"max_length": 16} | options)
    add_heads(model)
    if change is not None:
        change(model)
    enlarge(model).save_pretrained(folder)
    return folder


def assert_answers_alike(folder: Path, exported: Path, texts: list[Any] = TEXTS) -> None:
    model, onnx = MultiTaskModel.from_pretrained(folder).eval(), OnnxModel(exported)
    heads = [name for name in model.heads if name not in ("mlm", "embedding")]
    readable = [text for text in texts if not isinstance(text, tuple) or "same" in heads]
    for top_k in (1, None):
        assert_same(
            model.predict(readable, heads=heads, top_k=top_k, embeddings=True),
            onnx.predict(readable, heads=heads, top_k=top_k, embeddings=True),
        )
    singles = [text for text in readable if not isinstance(text, tuple)]
    assert_same(model.predict(singles, heads="embedding"), onnx.predict(singles, heads=["embedding"]))
    assert_same([*map(onnx.predict, ([text] for text in singles))], [[found] for found in onnx.predict(singles)])
    np.testing.assert_allclose(onnx.encode(singles), model.encode(singles), atol=1e-4)
    assert np.linalg.norm(onnx.encode("rome", normalize=True)) == pytest.approx(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoder_folder: str) -> Path:
    """A saved model with a head of every type."""
    return saved(tmp_path_factory.mktemp("onnx") / "model", encoder_folder)


def small_model(encoder: str) -> MultiTaskModel:
    """A model whose export takes little time."""
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(encoder, max_length=16)
    model.add_head("softmax", type="sequence_classification", labels=["a", "b", "c"])
    model.add_head("add", type="token_classification", labels=BIO)
    return model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, encoder_folder: str) -> Path:
    """A saved model with two heads."""
    folder = tmp_path_factory.mktemp("onnx") / "small"
    enlarge(small_model(encoder_folder)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    """The same model as ONNX."""
    return export_onnx(folder, folder.parent / "exported")


def test_an_exported_model_answers_as_the_model(folder: Path, exported: Path) -> None:
    assert_answers_alike(folder, exported)
    report = json.loads((exported / "parity.json").read_text())
    assert report["compared_on"] == "sentences of mtl_hf, since the model has no run.yaml"
    assert max(report["largest_difference"].values()) <= 1e-4
    assert report["largest_difference"].keys() == {"text_embedding", *OnnxModel(exported).heads}
    assert set(report["answered_alike"].values()) == {100}
    assert "mlm" not in OnnxModel(exported).heads
    assert not any(b"site-packages" in path.read_bytes() for path in exported.iterdir()), "paths of this machine"


@pytest.mark.slow
@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_every_family_of_encoders_is_exported(family: str, encoder_folders: dict[str, Path], tmp_path: Path) -> None:
    if family in FAMILIES:
        encoder = str(encoder_folders[family])
    else:
        sizes, make = MORE_FAMILIES[family]
        encoder = save(tmp_path / "encoder", family, sizes, make())
    assert_answers_alike(saved(tmp_path / "model", encoder), export_onnx(tmp_path / "model", tmp_path / "exported"))


def test_windows_word_rules_experts_and_a_merged_adapter_are_exported(encoder_folder: str, tmp_path: Path) -> None:
    def change(model: MultiTaskModel) -> None:
        model.config.word_rules = {"words": ["st."]}
        model.adapt("LoraConfig", r=4)

    options = {"overflow": "window", "stride": 4, "experts": {"num": 2, "hidden": 8}}
    folder = saved(tmp_path / "model", encoder_folder, change, **options)
    to = export_onnx(folder, tmp_path / "exported")
    assert_answers_alike(folder, to, [*TEXTS, "st. louis", LONG * 9])
    assert b"lora" not in (to / "model.onnx").read_bytes()


@pytest.mark.parametrize("adapter", [pytest.param("BottleneckConfig", marks=pytest.mark.slow), "LoraConfig"])
def test_an_adapter_for_each_head_is_an_encoder_pass_each(adapter: str, encoder_folder: str, tmp_path: Path) -> None:
    model = small_model(encoder_folder)
    model.adapt(adapter, per_task=True)
    enlarge(model).save_pretrained(tmp_path / "model")
    exported = OnnxModel(export_onnx(tmp_path / "model", tmp_path / "exported"))
    singles = [text for text in TEXTS if not isinstance(text, tuple)]
    assert_same(model.predict(singles, top_k=None), exported.predict(singles, top_k=None))
    np.testing.assert_allclose(exported.encode(singles), model.encode(singles), atol=1e-4)


def test_the_validation_rows_of_the_run_are_compared(
    encoder_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = two_source_config(encoder_folder, tmp_path / "run", num_train_epochs=1)
    for name, source in config["sources"].items():
        source.pop("dataset").to_json(tmp_path / f"{name}.jsonl")
        source |= {"path": "json", "data_files": {"train": f"${{data}}/{name}.jsonl"}, "split": {"validation": 0.25}}
    mtl_hf.train(config | {"data": str(tmp_path)})
    to = export_onnx(tmp_path / "run", tmp_path / "exported")
    report = json.loads((to / "parity.json").read_text())
    assert (report["compared_on"], report["texts"]) == ("validation rows of the run", 22)
    (tmp_path / "reviews.jsonl").unlink()
    with pytest.raises(ValueError, match="reviews"):
        export_onnx(tmp_path / "run", tmp_path / "again", overrides=[f"data={tmp_path}"])
    assert not (tmp_path / "again").exists()
    caplog.clear()
    export_onnx(tmp_path / "run", tmp_path / "again")
    (warning,) = [message for message in warnings_of(caplog) if "compared" in message]
    assert "is compared on sentences of mtl_hf" in warning
    assert "reviews.jsonl" in warning


def test_a_graph_that_computes_something_else_is_not_written(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: Graph, path: Path, max_length: int) -> None:
        with torch.no_grad():
            graph.model.heads["softmax"].classifier.bias += 0.01
            write_graph(graph, path, max_length)
            graph.model.heads["softmax"].classifier.bias -= 0.01

    monkeypatch.setattr(export_module, "write_graph", wrong)
    with pytest.raises(ValueError, match=r"largest differences are softmax 0\.01, and at most 0\.0001 is allowed"):
        export_onnx(small, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_graph_with_a_fixed_size_is_refused(encoder_folder: str, tmp_path: Path) -> None:
    class Fixed(Graph):
        def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            assert len(values[0]) == 2  # makes torch take the number of segments as a constant
            return super().forward(*values)

    model = small_model(encoder_folder).eval()
    graph = Fixed(model, ["softmax"], False, ["input_ids", "attention_mask"])
    with pytest.raises(ValueError, match=r"has exported BertModel with the fixed size \[2, 'length'\] of `input_ids`"):
        write_graph(graph, tmp_path / "model.onnx", 16)


def test_what_cannot_be_exported_is_refused_by_name(encoder_folder: str, folder: Path, tmp_path: Path) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16, overflow="window")
    model.add_head("topic", type="sequence_classification", labels=["a", "b"], window_pooling="attention")
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="the head 'topic' has `window_pooling: attention`"):
        export_onnx(tmp_path / "model", tmp_path / "to")
    with pytest.raises(ValueError, match=r"has no run\.yaml that these overrides could change"):
        export_onnx(folder, tmp_path / "to", overrides=["data=x"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(ValueError, match="not empty"):
        export_onnx(folder, tmp_path / "full")
    assert not (tmp_path / "to").exists()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: _cut(folder / "model.onnx"), "is damaged, or of another model"),
        (lambda folder: _cut(folder / "model.onnx.data"), "is damaged, or of another model"),
        (lambda folder: (folder / "model.onnx").unlink(), "does not exist: export the model again"),
        (lambda folder: _cut(folder / "tokenizer.json"), r"tokenizer\.json is damaged"),
        (lambda folder: _cut(folder / "onnx_config.json"), r"onnx_config\.json is damaged"),
        (lambda folder: (folder / "onnx_config.json").unlink(), "is not an exported model"),
        (lambda folder: _edit(folder / "onnx_config.json", more=1), "damaged or of another version of mtl_hf: more"),
        (lambda folder: _edit(folder / "onnx_config.json", heads=[]), r"`heads` is \[\]"),
        (lambda folder: _edit(folder / "onnx_config.json", tokenizer={}), "`tokenizer` has no model_input_names"),
    ],
)  # fmt: skip
def test_damaged_folders_are_refused(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(ValueError, match=message):
        OnnxModel(tmp_path / "copy")


def test_an_exported_model_needs_no_torch_little_memory_and_a_second(exported: Path) -> None:
    code = f"""
import re, sys, time
begin = time.perf_counter()
from mtl_hf.inference import OnnxModel
OnnxModel({str(exported)!r}).predict(["play jazz in rome"], embeddings=False)
print(time.perf_counter() - begin, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)
print(*(name for name in ("torch", "transformers", "datasets", "scipy", "sklearn") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    numbers, loaded = done.stdout.splitlines()
    seconds, megabytes = map(float, numbers.split())
    assert not loaded
    assert megabytes < 200
    assert seconds < 10, "on a machine that others use; `benchmarks/exported.py` measures it"


def test_errors_of_arguments_are_those_of_the_model(exported: Path) -> None:
    onnx = OnnxModel(exported, threads=1)
    with pytest.raises(ValueError, match="the heads of the model are"):
        onnx.predict(["rome"], heads="mood")
    with pytest.raises(ValueError, match="`texts` is a single string"):
        onnx.predict("rome")
    with pytest.raises(ValueError, match="a head is called 'embedding'"):
        onnx.predict(["rome"], embeddings=True)
    with pytest.raises(ValueError, match="`top_k` is 0"):
        onnx.predict(["rome"], heads="softmax", top_k=0)
    with pytest.raises(ValueError, match="`batch_size` is 0"):
        onnx.encode(["rome"], batch_size=0)


def test_the_command_line_exports_and_predicts(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mtl_hf.cli import main

    main(["export", str(small), "--format", "onnx", "--to", str(tmp_path / "exported")])
    capsys.readouterr()
    main(["predict", str(tmp_path / "exported"), "play jazz in rome", "--heads", "softmax"])
    ours = json.loads(capsys.readouterr().out)
    main(["predict", str(small), "play jazz in rome", "--heads", "softmax"])
    assert_same(json.loads(capsys.readouterr().out), ours)
    (tmp_path / "rows.csv").write_text("text\nplay jazz in rome\n")
    main(["predict", str(tmp_path / "exported"), "--file", str(tmp_path / "rows.csv"), "--heads", "softmax"])
    assert_same(json.loads(capsys.readouterr().out), ours)


def test_a_server_uses_the_graph_beside_the_model(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mtl_hf")
    copy = shutil.copytree(small, tmp_path / "model")
    first = load(str(copy), "model")
    assert isinstance(first.model.model, OnnxModel)
    assert f"Exporting {copy}" in caplog.text
    caplog.clear()
    again = load(str(copy), "model")
    assert f"Using the ONNX graph in {copy / 'onnx'}" in caplog.text
    requested = {"tasks": ["softmax", "add"], "top_k": [1], "embeddings": True}
    ours = load(str(copy), "model", backend="torch").model
    assert isinstance(ours.model, MultiTaskModel)
    served = (ours, again.model, load(str(copy / "onnx"), "x").model)
    (one,), (two,), (three,) = (model.predict(["play jazz in rome"], **requested) for model in served)
    assert_same(one.tasks, two.tasks)
    assert_same(one.tasks, three.tasks)
    model = MultiTaskModel.from_pretrained(copy)
    model.rename_head("softmax", "kind")
    model.save_pretrained(copy)
    caplog.clear()
    assert "kind" in load(str(copy), "model").model.tasks
    assert "is of other weights: it is exported again" in caplog.text
    with pytest.raises(ValueError, match=r"is an exported model, .* remove `--backend torch`"):
        load(str(copy / "onnx"), "x", backend="torch")
    with pytest.raises(ValueError, match="remove `--device cuda`"):
        load(str(copy / "onnx"), "x", "cuda")


def test_a_model_that_cannot_be_exported_is_served_by_torch(
    encoder_folder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mtl_hf")
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=16, overflow="window")
    model.add_head("topic", type="sequence_classification", labels=["a", "b"], window_pooling="attention")
    model.save_pretrained(tmp_path / "model")
    assert isinstance(load(str(tmp_path / "model"), "model").model.model, MultiTaskModel)
    assert "is served by torch: the head 'topic' has `window_pooling: attention`" in caplog.text
    with pytest.raises(ValueError, match="window_pooling"):
        load(str(tmp_path / "model"), "model", backend="onnx")


def test_a_model_whose_export_fails_is_served_by_torch(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(graph: Graph, path: Path, max_length: int) -> None:
        raise ValueError("torch cannot export this encoder")

    caplog.set_level(logging.INFO, logger="mtl_hf")
    monkeypatch.setattr(export_module, "write_graph", fails)
    copy = shutil.copytree(small, tmp_path / "model")
    assert isinstance(load(str(copy), "model").model.model, MultiTaskModel)
    assert "is served by torch: torch cannot export this encoder" in caplog.text
    with pytest.raises(ValueError, match="torch cannot export this encoder"):
        load(str(copy), "model", backend="onnx")
    assert not (copy / "onnx").exists()
