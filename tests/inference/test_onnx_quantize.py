"""int8 graphs: alone as in any batch, the fastest that the judge accepts, and nothing written where it accepts none."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from mtl_hf.cli import main
from mtl_hf.config import RunConfig
from mtl_hf.inference import OnnxModel
from mtl_hf.inference.onnx import quantize
from mtl_hf.inference.onnx.export import export_onnx, load_float
from mtl_hf.inference.onnx.int8_graph import IN_BLOCKS, IN_FLOAT, IN_ROWS, Option, find_parts, open_model, rewrite
from mtl_hf.inference.onnx.judging import Judge
from mtl_hf.inference.onnx.model import GRAPH
from mtl_hf.inference.onnx.quantize import Candidate, Verdict, ladder, measure_choices
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.run import train
from mtl_hf.saved.models import find_checkpoint
from tests.conftest import SENTENCES, TRAINING, save_encoder, write_fake_data

VOCABULARY, WIDTH, HIDDEN, NUM_LABELS = 300, 64, 256, 160
GOOD, BAD = Verdict({"a": 0.0}, {"a": 1.0}, {"a": 100}, 1.0), Verdict({"a": 0.1}, {"a": 0.5}, {"a": 100}, 0.99)


def tiny_graph() -> onnx.ModelProto:
    """A table, a norm, two layers that read the same input, a Gelu, and a layer whose input has one large channel."""
    random, labels = np.random.default_rng(0), NUM_LABELS

    def constant(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array((random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32), name)

    loud = np.ones(HIDDEN, np.float32)
    loud[5] = 60
    nodes = [
        helper.make_node("Gather", ["table.weight", "input_ids"], ["states"]),
        helper.make_node("LayerNormalization", ["states", "scale"], ["normed"], axis=-1),
        helper.make_node("MatMul", ["normed", "w_up"], ["up_product"], name="up"),
        helper.make_node("Add", ["up_product", "up.bias"], ["up"]),
        helper.make_node("MatMul", ["normed", "w_side"], ["side"], name="side"),
        helper.make_node("Gelu", ["up"], ["active"]),
        helper.make_node("Mul", ["active", "loud"], ["loudly"]),
        helper.make_node("MatMul", ["loudly", "w_down"], ["down_product"]),
        helper.make_node("Add", ["down.bias", "down_product"], ["down"]),
        helper.make_node("Add", ["down", "side"], ["logits_a"]),
    ]
    constants = [
        constant("table.weight", VOCABULARY, WIDTH), numpy_helper.from_array(np.ones(WIDTH, np.float32), "scale"),
        constant("w_up", WIDTH, HIDDEN), constant("up.bias", HIDDEN), constant("w_side", WIDTH, labels),
        numpy_helper.from_array(loud, "loud"), constant("w_down", HIDDEN, labels), constant("down.bias", labels),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "tiny", [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("logits_a", TensorProto.FLOAT, ["batch", "length", labels])], constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def rows(count: int = 40) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(1)
    return [{"input_ids": random.integers(0, VOCABULARY, (1, 2 + index % 7))} for index in range(count)]


def outputs(model: onnx.ModelProto, ids: np.ndarray) -> np.ndarray:
    return open_model(model).run(None, {"input_ids": ids})[0]


def largest_difference_alone(model: onnx.ModelProto) -> float:
    """The largest difference between the outputs for the first tokens of a text alone, and in a batch."""
    ids = np.random.default_rng(2).integers(0, VOCABULARY, (16, 9))
    together = outputs(model, ids)
    return max(
        float(np.abs(outputs(model, ids[row : row + 1, :length])[0] - together[row, :length]).max())
        for row in range(16) for length in (1, 4, 9)
    )  # fmt: skip


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is timed."""
    monkeypatch.setattr(quantize, "_time", lambda *_: ({1: 1.0, 32: 1.0}, {1: 1.0, 32: 1.0}))


def run_quantize(graph: Path, verdicts: Iterator[Verdict]) -> list[Candidate]:
    return quantize.quantize(
        graph, graph.with_name("int8.onnx"), rows(), lambda _: next(verdicts), reference=lambda batch: None
    )


EVERY_OPTION = [*quantize.OPTIONS, IN_BLOCKS]


@pytest.mark.parametrize("option", EVERY_OPTION, ids=str)
def test_every_option_computes_the_graph_and_answers_alone_as_in_any_batch(option):
    model = tiny_graph()
    parts = find_parts(model, rows())
    assert {name: [layer.name for layer in group] for name, group in parts.layers.items()} == {
        "normed": ["up", "side"], "loudly": ["down"],
    }  # fmt: skip
    chosen = dict.fromkeys(parts.layers, option) | dict.fromkeys(parts.tables, IN_ROWS)
    changed = rewrite(model, parts, chosen)
    onnx.checker.check_model(changed)
    kinds = {node.op_type for node in changed.graph.node}
    assert "MatMulNBits" in kinds if option == IN_BLOCKS else "MatMulIntegerToFloat" in kinds
    ids = np.random.default_rng(2).integers(0, VOCABULARY, (16, 9))
    wanted, found = outputs(model, ids), outputs(changed, ids)
    error = np.sqrt(((found - wanted) ** 2).mean() / wanted.var())
    assert 0 < error < (0.02 if option.outliers or option == IN_BLOCKS else 0.1)
    assert largest_difference_alone(changed) < 1e-4


def test_one_step_for_a_whole_batch_would_not_pass(graph):
    quantize_dynamic(graph, graph.with_name("dynamic.onnx"), weight_type=QuantType.QInt8, per_channel=True)
    assert largest_difference_alone(onnx.load(graph.with_name("dynamic.onnx"))) > 1e-2


def test_large_channels_in_float_and_smoothing_reduce_the_error():
    model = tiny_graph()
    parts = find_parts(model, rows())
    ids = np.random.default_rng(2).integers(0, VOCABULARY, (16, 9))
    wanted = outputs(model, ids)

    def error(option: Option) -> float:
        return float(((outputs(rewrite(model, parts, {"loudly": option}), ids) - wanted) ** 2).mean())

    assert error(Option("static", None, True)) < error(Option("static")) / 20
    assert error(Option("static", 0.65)) < error(Option("static")) / 3


def test_what_is_chosen_as_float_or_not_at_all_stays_as_it_is():
    model = tiny_graph()
    parts = find_parts(model, rows())
    changed = rewrite(model, parts, {"normed": IN_FLOAT})
    assert [node.op_type for node in changed.graph.node] == [node.op_type for node in model.graph.node]
    ids = np.arange(6).reshape(2, 3)
    np.testing.assert_array_equal(outputs(changed, ids), outputs(model, ids))


def test_candidates_are_slower_and_more_accurate_one_after_the_other():
    model = tiny_graph()
    parts = find_parts(model, rows())
    choices = measure_choices(model, parts, rows())
    steps = ladder(choices, parts)
    assert steps[-1] == dict.fromkeys(parts.layers, IN_BLOCKS)
    found = [
        [next(choice for choice in choices[name] if choice.option == option) for name, option in chosen.items()]
        for chosen in steps[:-1]
    ]
    costs, errors = ([sum(getattr(one, key) for one in step) for step in found] for key in ("cost", "error"))
    assert costs == sorted(costs)
    assert all(after <= quantize.STEP * before for before, after in itertools.pairwise(errors))


def test_the_first_accepted_candidate_is_kept(graph, quick):
    tried = run_quantize(graph, iter([BAD, BAD, GOOD]))
    assert [one.name for one in tried] == ["float", "int8-1", "int8-2", "int8-3"]
    assert [bool(one.failures) for one in tried] == [False, True, True, False]
    model = onnx.load(graph)
    parts = find_parts(model, rows())
    third = rewrite(model, parts, ladder(measure_choices(model, parts, rows()), parts)[2])
    ids = np.arange(12).reshape(2, 6)
    np.testing.assert_array_equal(outputs(onnx.load(graph.with_name("int8.onnx")), ids), outputs(third, ids))


def test_a_judge_that_refuses_everything_leaves_nothing(graph, quick):
    before = {path: path.read_bytes() for path in graph.parent.iterdir()}
    nothing = Verdict({"a": float("nan")}, {"a": 0.97}, {"a": 1000}, 0.979)
    with pytest.raises(ValueError, match="no int8 graph is accurate enough") as error:
        run_quantize(graph, iter([nothing] * 99))
    assert "nan points; a 96.4% alike by 1000 rows; cosine 0.979 |" in str(error.value)
    assert "| int8-1 |" in str(error.value)
    assert {path: path.read_bytes() for path in graph.parent.iterdir()} == before


def test_a_graph_without_layers_is_refused(tmp_path, quick):
    model = tiny_graph()
    del model.graph.node[1:]
    model.graph.output[0].name = "states"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="nothing to quantize"):
        run_quantize(tmp_path / "model.onnx", iter([GOOD]))


# ---- with a model ----

COLUMNS = {"words": "tokens", "texts": "text", "pairs": ["one", "two"], "choices": ["question", "a", "b"]}
WINDOWED = {
    "sort": ("sequence_classification", "words"), "slots": ("token_classification", "words"),
    "stars": ("regression", "texts"), "topics": ("multi_label_classification", "texts"),
}  # fmt: skip
GROUPED = {"alike": ("sentence_similarity", "pairs"), "pick": ("multiple_choice", "choices")}


def train_run(folder: Path, tasks: dict[str, tuple[str, str]], **model: object) -> Path:
    """A run of one epoch with data in files, so that its rows can be read again."""
    encoder = save_encoder(folder / "encoder", initializer_range=0.3)  # with the default all texts look the same
    config = {
        "model": {"encoder": str(encoder), **model},
        "sources": {
            name: {
                "path": "json",
                "data_files": {split: str(folder / name / f"{split}.jsonl") for split in ("train", "validation")},
                "text": COLUMNS[name],
            }
            for name in dict.fromkeys(source for _, source in tasks.values())
        },
        "tasks": {
            name: {"type": kind, "source": source, "label": f"label_{name}"} for name, (kind, source) in tasks.items()
        },
        "training": TRAINING | {"output_dir": str(folder / "run"), "num_train_epochs": 1},
    }
    write_fake_data(RunConfig.load(config), folder)
    for path in folder.glob("*/*.jsonl"):  # texts of a row that differ
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            if isinstance(columns := COLUMNS[path.parent.name], list):
                row |= {name: f"{row[name]} {SENTENCES[(number + place) % 7]}" for place, name in enumerate(columns)}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(config)
    return folder / "run"


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose heads read texts in windows."""
    return train_run(tmp_path_factory.mktemp("int8"), WINDOWED, max_length=8, overflow="window", stride=2)


@pytest.fixture(scope="module")
def exported(run_folder: Path) -> Path:
    return export_onnx(run_folder, run_folder.parent / "float")


def check_judged_alike(run: Path, folder: Path, tasks: dict[str, tuple[str, str]]) -> None:
    checkpoint = find_checkpoint(run)
    judge = Judge(load_float(checkpoint), OnnxModel(folder), checkpoint)
    assert all(len(row["input_ids"]) == 1 and row["attention_mask"].all() for row in judge.calibration)
    verdict = judge(folder / GRAPH)
    assert verdict.drops.keys() == verdict.alike.keys() == tasks.keys()
    assert all(abs(drop) < 1e-3 for drop in verdict.drops.values())
    assert set(verdict.alike.values()) == {1.0}
    assert verdict.cosine == pytest.approx(1.0, abs=1e-5)
    assert judge.model.forward.__func__ is MultiTaskModel.forward  # as it was
    # Other weights answer otherwise, so the judge reads the graph.
    other = onnx.load(folder / GRAPH)
    for one in other.graph.initializer:
        if one.name.endswith("LayerNorm.weight"):
            one.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(one), one.name))
    onnx.save(other, run / "other.onnx")
    assert judge(run / "other.onnx").failures(0.5)


def test_a_graph_in_float_is_judged_to_be_the_model_that_reads_windows(run_folder, exported):
    check_judged_alike(run_folder, exported, WINDOWED)


def test_a_graph_in_float_is_judged_to_be_the_model_that_reads_pairs_and_choices(tmp_path):
    run = train_run(tmp_path, GROUPED)
    check_judged_alike(run, export_onnx(run, tmp_path / "float"), GROUPED)


def test_the_export_writes_one_file_in_int8_and_the_table(run_folder, tmp_path, quick, monkeypatch, caplog):
    monkeypatch.setattr(quantize, "MIN_ALIKE", 0.0)
    main(["export", str(run_folder), "--to", str(tmp_path / "int8"), "--quantize", "int8", "--max-drop", "60"])
    assert not (tmp_path / "int8" / f"{GRAPH}.data").exists()
    report = json.loads((tmp_path / "int8" / "parity.json").read_text())["int8"]
    assert report["validation_rows"] == 48
    assert report["candidates"][-1]["failures"] == []
    assert report["table"] in (tmp_path / "int8" / "README.md").read_text()
    assert report["table"] in caplog.text
    assert "Task slots: with only 24 validation rows, other rows may be answered alike less often" in caplog.text
    model = OnnxModel(tmp_path / "int8")
    assert any("int8/" in node.name for node in onnx.load(tmp_path / "int8" / GRAPH).graph.node)
    together = model.encode(SENTENCES)
    for text, own in zip(SENTENCES, together, strict=True):
        np.testing.assert_allclose(model.encode(text), own, atol=1e-4)


@pytest.mark.slow
def test_where_no_graph_is_accurate_enough_nothing_is_written(run_folder, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(quantize, "MIN_COSINE", 1.1)
    with pytest.raises(ValueError, match="no int8 graph is accurate enough"):
        export_onnx(run_folder, tmp_path / "int8", quantize="int8")
    assert not list(tmp_path.glob("*int8*"))


def test_int8_needs_the_rows_of_the_run(run_folder, exported, encoder_folder, tmp_path):
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("sort", type="sequence_classification", labels=["a", "b"])
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"no run\.yaml that names its data: `--quantize int8` needs"):
        Judge(model, OnnxModel(exported), find_checkpoint(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"no run\.yaml that names its data: `--quantize int8` needs"):
        export_onnx(tmp_path / "model", tmp_path / "int8", quantize="int8")
    with pytest.raises(ValueError, match="`quantize` is 'int4'; valid are int8"):
        export_onnx(run_folder, tmp_path / "int4", quantize="int4")
    with pytest.raises(ValueError, match="`max_drop` is -1; it should be 0 or more"):
        export_onnx(run_folder, tmp_path / "int8", quantize="int8", max_drop=-1)
    checkpoint = find_checkpoint(run_folder)
    moved = f"sources.texts.data_files={{train: {tmp_path}/none.jsonl, validation: {tmp_path}/none.jsonl}}"
    with pytest.raises(ValueError, match="`--quantize int8` needs training and validation rows of the run: name"):
        Judge(load_float(checkpoint), OnnxModel(exported), checkpoint, [moved])
