"""Answers of a task from whole arrays of outputs, as evaluation makes them batch by batch; and their comparison."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mtl_hf.modeling.head import EncoderShape
from mtl_hf.modeling.heads import build_head
from mtl_hf.tasks import Answers, TaskData
from mtl_hf.tasks.task_type import ScoredRows


class _Tokenizer:
    unk_token_id = -1


def read_answers(
    task: TaskData,
    gold: Sequence[Any],
    outputs: np.ndarray,
    word_starts: Sequence[Sequence[int]] | None = None,
    second_texts: Sequence[int] | None = None,
) -> Answers:
    """Decode outputs of all rows, and put them beside their labels.

    Args:
        task: The task.
        gold: Label of each row, None where it has none.
        outputs: Of its head, a row each.
        word_starts: Of each row the position of each word's first token.
        second_texts: A number for each row's second text, the same for equal ones; by default all differ.
    """
    labels = {"labels": task.labels} if task.labels else {}
    head = build_head({"type": task.type, "text": task.form, **labels}, EncoderShape(4, "mean", 5, 4))
    texts = range(len(gold)) if second_texts is None else second_texts
    columns = {
        "word_starts": word_starts,
        "input_ids": [[int(number)] for number in texts],
        "segments": [[0, 1]] * len(gold),
    }
    rows = ScoredRows(
        np.arange(len(gold)), gold, outputs, head.decode(outputs, columns), columns, [], _Tokenizer(), max_length=9
    )
    return task.kind.complete(task, task.kind.read_answers(task, rows))


def assert_same(ours: Any, theirs: Any) -> None:
    """Answers are equal, numbers to 1e-4."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    elif isinstance(ours, float):
        assert theirs == pytest.approx(ours, abs=1e-4, rel=1e-4)
    else:
        assert ours == theirs
