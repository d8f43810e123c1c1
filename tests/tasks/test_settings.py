"""Tests of what task types refuse of their settings, before any data are loaded and without torch."""

import subprocess
import sys

import pytest

from mtl_hf.config import RunConfig
from mtl_hf.tasks import TASK_TYPES, check_settings
from tests.config.conftest import minimal


def similarity(**options: object) -> dict:
    return {"alike": {"type": "sentence_similarity", "source": "reviews", "label": "score", **options}}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"score_range": [0, float("inf")], "loss": "cosine"},
            r"`tasks\.alike\.score_range` is .*; both numbers should be finite",
        ),
        ({"temperature": float("nan")}, r"`tasks\.alike\.temperature` is nan; it should be above 0 and finite"),
        ({"temperature": 0.1}, r"`tasks\.alike\.temperature` only works with `loss: ranking`"),
        ({"bio": "repair"}, r"`tasks\.alike\.bio` is an option of token_classification, not of sentence_similarity"),
        ({"los": "cosine"}, r"unknown key `los` in `tasks\.alike`\. Did you mean `loss`"),
        ({"lable": "x"}, r"unknown key `lable` in `tasks\.alike`\. Did you mean `label`"),
        ({"loss": "cosin"}, r"`tasks\.alike\.loss` is 'cosin'; it should be 'cosine' or 'ranking'|valid are cosine"),
        ({"options": {"loss": "cosine"}}, r"unknown key `options` in `tasks\.alike`"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_by_its_key(options: dict, expected: str) -> None:
    run = RunConfig.load(minimal(tasks=similarity(**options)))
    with pytest.raises(ValueError, match=expected):
        check_settings(run)


def test_a_value_of_an_option_that_is_not_valid_is_refused() -> None:
    tags = {"tags": {"type": "token_classification", "source": "reviews", "label": "tags"}}
    with pytest.raises(ValueError, match=r"`tasks\.tags\.bio` is fix; valid are repair, refuse"):
        check_settings(RunConfig.load(minimal(tasks=tags), ["tasks.tags.bio=fix"]))


def test_spans_have_no_scheme() -> None:
    tags = {"tags": {"type": "token_classification", "source": "reviews", "spans": "tags", "scheme": "io"}}
    with pytest.raises(ValueError, match=r"`tasks\.tags\.scheme` is io, but `spans` names a column of spans"):
        check_settings(RunConfig.load(minimal(tasks=tags)))
    check_settings(RunConfig.load(minimal(tasks=tags), ["tasks.tags.scheme=auto"]))


def test_an_option_is_typed_as_its_field_says_and_written_back() -> None:
    run = RunConfig.load(minimal(tasks=similarity()), ["tasks.alike.score_range=[1, 5]", "tasks.alike.loss=cosine"])
    options = TASK_TYPES["sentence_similarity"].read_options("alike", run.tasks["alike"])
    assert (options.bounds, options.loss, options.temperature) == ((1.0, 5.0), "cosine", None)
    again = RunConfig.load(run.to_dict()).tasks["alike"]
    assert TASK_TYPES["sentence_similarity"].read_options("alike", again) == options
    assert run.to_dict()["tasks"]["alike"]["score_range"] == [1, 5]


def test_settings_are_checked_without_torch() -> None:
    code = (
        "import sys; from mtl_hf.config import RunConfig; from mtl_hf.tasks import check_settings\n"
        f"check_settings(RunConfig.load({minimal()!r}))\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
