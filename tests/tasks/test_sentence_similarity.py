"""Tests of `mtl_hf.tasks.sentence_similarity`: which second texts are the same one, where pairs have no scores."""

import datasets
import numpy as np

from mtl_hf.config import RunConfig
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.evaluation.evaluate import encode_split
from mtl_hf.modeling.decoding import Prediction
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.tasks.task_type import ScoredRows


def ranks(
    encoder_folder: str, seconds: list[str], max_length: int | None = None
) -> tuple[list[float], list[list[int]]]:
    """The rank of each row's own second text for a model to which all texts are the same, and the tokens of these.

    Such a model ranks every text last, so a rank is the number of different second texts.
    """
    rows = datasets.Dataset.from_dict({"a": ["x"] * len(seconds), "b": seconds})
    config = RunConfig.load({
        "model": {"encoder": encoder_folder, "max_length": max_length},
        "sources": {"only": {"dataset": {"train": rows, "validation": rows}, "text": ["a", "b"]}},
        "tasks": {"ranked": {"type": "sentence_similarity", "source": "only", "loss": "ranking"}},
    })  # fmt: skip
    sources = load_sources(config)
    model = MultiTaskModel.from_encoder(encoder_folder, max_length=max_length)
    task = build_tasks(config, sources)["ranked"]
    split = encode_split(sources["only"], "validation", {"ranked": task}, model)
    numbers = list(range(len(seconds)))
    assert split.texts is not None
    scored = ScoredRows(
        np.array(numbers), split.gold["ranked"], np.tile([1.0, 0.0], (len(seconds), 2, 1)),
        [Prediction(1.0)] * len(seconds), split.rows.to_dict(), split.texts(numbers), model.tokenizer,
        model.config.max_length,
    )  # fmt: skip
    found = task.kind.complete(task, task.kind.read_answers(task, scored)).predicted
    begins = [segments[0] for segments in split.rows["segments"]]
    return found, [ids[begin:] for ids, begin in zip(split.rows["input_ids"], begins, strict=True)]


def test_equal_second_texts_are_one(encoder_folder: str) -> None:
    found, _ = ranks(encoder_folder, ["play jazz 7", "play jazz 8", "play jazz 7"])
    assert found == [2.0, 2.0, 2.0], "also where both have the same unknown token"


def test_second_texts_of_the_same_tokens_are_one_unless_cut(encoder_folder: str) -> None:
    seconds = [
        "play jazz",
        "Play  JAZZ",
        "play",
        "play jazz today play jazz today",
        "play jazz today play jazz in rome",
    ]
    found, tokens = ranks(encoder_folder, seconds, max_length=7)
    assert tokens[3] == tokens[4]
    assert tokens[0] == tokens[1]
    assert found == [4.0] * 5
