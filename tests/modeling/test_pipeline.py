"""Tests of `mtl_hf.modeling.pipeline`: what goes in and comes out, where it is found, and what it costs.

Where we are not installed it is tested by `test_hub.py`.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset, KeyPairDataset

import mtl_hf
from mtl_hf import MultiTaskModel, MultiTaskPipeline
from tests.conftest import SENTENCES

ROOT = Path(__file__).parents[2]
PAIR = ("play some jazz", "book a table")


@pytest.fixture(scope="module")
def folder(encoder_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved model with heads for texts, words and pairs, whose tokenizer needs to be told of words."""
    torch.manual_seed(0)
    model = MultiTaskModel.from_encoder(encoder_folders["roberta"])
    model.add_head("intent", type="sequence_classification", labels=["music", "booking", "weather"])
    model.add_head("slots", type="token_classification", labels=["O", "B-city", "I-city"])
    model.add_head("same", type="sequence_classification", labels=["no", "yes"], text="pair")
    for name, parameter in model.heads.named_parameters():
        nn.init.normal_(parameter)
        model.config.heads[name.split(".")[0]]["num_steps"] = 1
    path = tmp_path_factory.mktemp("pipeline") / "model"
    model.save_pretrained(path)
    return str(path)


@pytest.fixture
def pipe(folder: str) -> MultiTaskPipeline:
    return pipeline("multi-task", model=folder)


def test_a_pipeline_is_made_of_a_folder_or_a_model_and_answers_as_the_model_does(pipe, folder) -> None:
    model = MultiTaskModel.from_pretrained(folder)
    assert type(pipe) is type(pipeline("multi-task", model=model)) is MultiTaskPipeline
    texts = [*SENTENCES, PAIR, ["play", "jazz"], "", []]
    answers = pipe(texts)
    assert answers == model.predict(texts) == pipeline("multi-task", model=model)(texts)
    assert [list(answer) for answer in answers[:9]] == [["intent", "slots"]] * 8 + [["same"]]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("play jazz", "play jazz"),
        ({"text": "play jazz"}, "play jazz"),
        ({"text": "play jazz", "text_pair": None}, "play jazz"),
        ({"text": ["play", "jazz"]}, ["play", "jazz"]),
        (PAIR, PAIR),
        (dict(zip(("text", "text_pair"), PAIR, strict=True)), PAIR),
    ],
)
def test_one_text_gives_one_answer_and_a_list_a_list(pipe, given: Any, text: Any) -> None:
    [expected] = pipe.model.predict([text])
    assert pipe(given) == expected
    assert pipe([given]) == [expected]
    assert pipe([]) == []


class Rows(Dataset):
    """A data set that never says by itself that it has ended."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, row: int) -> str:
        return SENTENCES[row]


def test_data_sets_and_generators_are_streamed(pipe) -> None:
    rows = datasets.Dataset.from_dict(
        {"text": SENTENCES, "other": SENTENCES[::-1], "words": [text.split() for text in SENTENCES]}
    )
    pairs = list(zip(SENTENCES, SENTENCES[::-1], strict=True))
    for stream, texts in [
        (KeyDataset(rows, "text"), SENTENCES),
        (KeyDataset(rows, "words"), rows["words"]),
        (KeyPairDataset(rows, "text", "other"), pairs),
        (rows.select_columns(["text"]), SENTENCES),
        (rows["text"], SENTENCES),
        (Rows(), SENTENCES[:3]),
        ((text for text in SENTENCES), SENTENCES),
    ]:
        answers = pipe(stream)
        assert isinstance(answers, Iterator)
        expected = pipe.model.predict(list(texts))
        for answer, other in zip(answers, expected, strict=True):
            assert answer.keys() == other.keys()
            for name in answer.keys() - {"slots"}:
                assert answer[name] == {**other[name], "score": pytest.approx(other[name]["score"], abs=1e-5)}


@pytest.mark.parametrize(("batch_size", "read_ahead"), [(1, [1, 2, 3]), (2, [2, 2, 6]), (4, [4, 4, 4])])
def test_a_stream_is_read_no_further_than_a_few_batches(pipe, batch_size: int, read_ahead: list[int]) -> None:
    read = []
    answers = pipe((read.append(text) or text for text in SENTENCES * 2), batch_size=batch_size)
    assert not read
    counts = []
    for _ in range(3):
        next(answers)
        counts.append(len(read))
    assert counts == read_ahead
    assert len(list(answers)) == 2 * len(SENTENCES) - 3


def test_options_hold_for_the_pipeline_or_for_a_call(pipe, folder) -> None:
    assert list(pipe("play jazz", heads="slots")) == ["slots"]
    own = pipeline("multi-task", model=folder, heads=["intent"], top_k=2, batch_size=3)
    assert [len(answer["intent"]) for answer in own(SENTENCES)] == [2] * len(SENTENCES)
    assert len(own("play jazz", top_k=None)["intent"]) == 3
    assert own("play jazz", heads="slots", embeddings=True).keys() == {"slots", "embedding"}
    assert own("play jazz").keys() == {"intent"}


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (None, {}, "text 1 is None; it should be a string, a list of words, or a tuple of two strings"),
        (3, {}, "text 1 is 3"),
        (["play", None], {}, "text 2 is None"),
        (("a", "b", "c"), {}, "text 1 is"),
        ([["play", 3]], {}, r"text 1 is \['play', 3\]"),
        ({"sentence": "play"}, {}, r"keys \['sentence'\]; valid are `text`"),
        ({"text": "a", "pair": "b"}, {}, "for a pair, `text_pair`"),
        ("play", {"heads": "mood"}, r"`heads` has \['mood'\]"),
        ("play", {"topk": 3}, r"not \['topk'\]"),
        ("play", {"top_k": 0}, "`top_k` is 0; it should be at least 1"),
        ("play", {"batch_size": 0}, "`batch_size` is 0"),
    ],
)
def test_what_is_no_text_and_no_option_is_refused(pipe, given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(given, **options)


def test_all_heads_share_one_encoder_pass(pipe) -> None:
    passes = []
    pipe.model.encoder.register_forward_hook(lambda *_: passes.append(1))
    pipe("play some jazz in paris")
    assert len(passes) == 1


def test_the_tokenizer_is_the_models_or_the_one_given(pipe, folder) -> None:
    assert pipe.tokenizer is pipe.model.tokenizer
    other = pipe.tokenizer
    again = pipeline("multi-task", model=folder, tokenizer=other)
    assert again.model.tokenizer is again.tokenizer is other


def test_a_saved_pipeline_is_a_saved_model(pipe, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / "pipeline.py").is_file()
    assert json.loads((tmp_path / "config.json").read_text())["custom_pipelines"] == {
        "multi-task": {"impl": "pipeline.MultiTaskPipeline", "pt": ["AutoModel"], "type": "text"}
    }
    assert pipeline("multi-task", model=str(tmp_path))(SENTENCES) == pipe(SENTENCES)


@pytest.mark.parametrize(
    "imports",
    ["from mtl_hf import MultiTaskModel; from transformers import pipeline",
     pytest.param("from transformers import pipeline; import mtl_hf; mtl_hf.train", marks=pytest.mark.slow)],
)  # fmt: skip
def test_touching_a_name_is_enough_whichever_comes_first_and_no_code_of_the_folder_is_run(imports, folder) -> None:
    code = f"{imports}\nprint(type(pipeline('multi-task', model={folder!r})).__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout.splitlines()[-1:] == ["mtl_hf.modeling.pipeline"], done.stderr


def test_importing_us_alone_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, mtl_hf; assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=240)
    assert mtl_hf.MultiTaskPipeline is MultiTaskPipeline
