"""Tags as people have them, from files: each scheme, one bad tag among many, `scheme`, two schemes in one column."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.config import RunConfig
from mtl_hf.data.draft import draft_config
from mtl_hf.data.labels import build_tasks
from mtl_hf.data.sources import load_sources
from mtl_hf.modeling.tags import bio_spans
from mtl_hf.tasks import SourceData, TaskData
from tests.conftest import warnings_of

WORDS = [
    "Dev Dev and nobody else came .", "In Port of Elm , Bo Lind met Ana .", "Carla Weiss Ruiz flew to Oslo today .",
    "It rained in Riga .", "Nobody called Ana Bo today .",
]  # fmt: skip
CASES = {
    "bio": ["B-PER B-PER O O O O O", "O B-LOC I-LOC I-LOC O B-PER I-PER O B-PER O",
            "B-PER I-PER I-PER O O B-LOC O O", "O O O B-LOC O", "O O B-PER B-PER O O"],
    "bioes": ["S-PER S-PER O O O O O", "O B-LOC I-LOC E-LOC O B-PER E-PER O S-PER O",
              "B-PER I-PER E-PER O O S-LOC O O", "O O O S-LOC O", "O O S-PER S-PER O O"],
    "bilou": ["U-PER U-PER O O O O O", "O B-LOC I-LOC L-LOC O B-PER L-PER O U-PER O",
              "B-PER I-PER L-PER O O U-LOC O O", "O O O U-LOC O", "O O U-PER U-PER O O"],
    "iob1": ["I-PER B-PER O O O O O", "O I-LOC I-LOC I-LOC O I-PER I-PER O I-PER O",
             "I-PER I-PER I-PER O O I-LOC O O", "O O O I-LOC O", "O O I-PER B-PER O O"],
    "suffix": ["PER-B PER-B O O O O O", "O LOC-B LOC-I LOC-I O PER-B PER-I O PER-B O",
               "PER-B PER-I PER-I O O LOC-B O O", "O O O LOC-B O", "O O PER-B PER-B O O"],
    "lower": ["b-per b-per o o o o o", "o b-loc i-loc i-loc o b-per i-per o b-per o",
              "b-per i-per i-per o o b-loc o o", "o o o b-loc o", "o o b-per b-per o o"],
    "bare": ["B B O O O O O", "O B I I O B I O B O", "B I I O O B O O", "O O O B O", "O O B B O O"],
    "io": ["I-PER I-PER O O O O O", "O I-LOC I-LOC I-LOC O I-PER I-PER O I-PER O",
           "I-PER I-PER I-PER O O I-LOC O O", "O O O I-LOC O", "O O I-PER I-PER O O"],
    "plain": ["PER PER O O O O O", "O LOC LOC LOC O PER PER O PER O",
              "PER PER PER O O LOC O O", "O O O LOC O", "O O PER PER O O"],
}  # fmt: skip
SAID = {"bioes": "BIOES", "bilou": "BILOU", "iob1": "IOB1", "suffix": "BIO (as PER-B)", "lower": "BIO (as b-per)",
        "bare": "BIO (without types)", "io": "IO", "plain": "IO (as PER)"}  # fmt: skip


def write(folder: Path, tags: list[str]) -> Path:
    """A file of the sentences, with these tags; the tag `_` is empty, and spaces are written as ~."""
    rows = [
        {"tokens": words.split(), "tags": [{"_": ""}.get(tag, tag.replace("~", " ")) for tag in own.split()]}
        for words, own in zip(WORDS * 4, tags, strict=True)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def build(folder: Path, tags: list[str], given: list[str] | None = None, **options: Any) -> tuple[TaskData, SourceData]:
    path = str(write(folder, tags))
    files = {"train": path, "validation": path} if given is None else {"test": path}
    config = RunConfig.load({
        "model": {"encoder": "unused"},
        "sources": {"only": {"path": "json", "data_files": files, "text": "tokens"}},
        "tasks": {"ner": {"type": "token_classification", "source": "only", "label": "tags"} | options},
    })  # fmt: skip
    sources = load_sources(config)
    return build_tasks(config, sources, None if given is None else {"ner": given})["ner"], sources["only"]


def entities(source: SourceData, split: str = "train") -> list[list[tuple[str, int, int]]]:
    return [bio_spans(tags) for tags in source.gold[split]["ner"]]


def expected(case: str) -> list[list[tuple[str, int, int]]]:
    """The entities of the sentences in BIO, as far as a scheme can express them."""
    found = []
    for tags in CASES["bio"] * 4:
        spans: list[tuple[str, int, int]] = []
        for kind, begin, end in bio_spans(tags.split()):
            kind = {"bare": "entity", "lower": kind.lower()}.get(case, kind)
            if case in ("io", "plain") and spans and (spans[-1][0], spans[-1][2]) == (kind, begin):
                spans[-1] = (kind, spans[-1][1], end)
            else:
                spans.append((kind, begin, end))
        found.append(spans)
    return found


@pytest.mark.parametrize("case", CASES)
def test_every_scheme_has_the_entities_of_bio(case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task, source = build(tmp_path, CASES[case] * 4, **({"scheme": "io"} if case == "plain" else {}))
    assert task.spans
    assert entities(source) == expected(case)
    said = [message for message in caplog.messages if "read as BIO" in message]
    assert said == ([f"Task ner: {SAID[case]} tags in source only, read as BIO."] if case in SAID else [])
    assert not [message for message in warnings_of(caplog) if message.startswith("Task") and message not in said]
    for chosen in (case, "auto"):  # naming the scheme changes nothing
        if chosen in ("io", "iob1", "bio", "bioes", "bilou"):
            assert entities(build(tmp_path, CASES[case] * 4, scheme=chosen)[1]) == expected(case)


def test_types_alone_are_spans_only_where_the_config_has_it_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert not build(tmp_path, CASES["plain"] * 4)[0].spans
    assert "and the others are types, set `tasks.ner.scheme: io`." in caplog.text
    yaml = draft_config([str(tmp_path / "rows.jsonl")])
    assert "these are labels of words: if they are types of spans, add `scheme: io`" in yaml


@pytest.mark.parametrize("bad", ["-", "_", "o", "B-"])
@pytest.mark.parametrize("scheme", ["auto", "bio", "iob2"])
def test_one_bad_tag_is_named_with_its_row(bad: str, scheme: str, tmp_path: Path) -> None:
    tags = CASES["bio"] * 4
    tags[8] = f"O O O {bad} O"
    named = "the scheme of the others, BIO" if scheme == "auto" else f"`scheme: {scheme}`, read as BIO"
    shown = "''" if bad == "_" else repr(bad)
    with pytest.raises(ValueError) as caught:
        build(tmp_path, tags, scheme=scheme)
    assert str(caught.value) == (
        f"`tasks.ner`: 1 of 144 tags of the split 'train' of source 'only' do not fit {named}: {shown} (row 9, word 4)."
        " Correct them, or set `sources.only.drop_bad_rows: true` to drop these rows (1)."
    )


def test_one_space_is_removed_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tags = CASES["bio"] * 4
    tags[8] = "O O O B-LOC~ O"
    assert entities(build(tmp_path, tags)[1]) == expected("bio")
    assert "spaces around 1 tags of only train are removed (the first: 'B-LOC ' in row 9 of the split" in caplog.text


@pytest.mark.parametrize("bad", ["B-PER", "I-PER", "-", "0", "o", "_"])
def test_what_is_no_type_is_named_where_tags_are_types_alone(bad: str, tmp_path: Path) -> None:
    tags = CASES["plain"] * 4
    tags[8] = f"O O O {bad} O"
    shown = "''" if bad == "_" else repr(bad)
    with pytest.raises(ValueError, match=rf"1 of 144 tags .* `scheme: io`, read as IO \(as PER\): {shown} \(row 9,"):
        build(tmp_path, tags, scheme="io")


@pytest.mark.parametrize(
    ("case", "scheme", "number"),
    [("bio", "io", 40), ("suffix", "io", 40), ("bioes", "bio", 40), ("bilou", "bioes", 40), ("plain", "bio", 60)],
)
def test_tags_that_do_not_fit_the_scheme_of_the_config_are_named(
    case: str, scheme: str, number: int, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"{number} of 144 tags .* do not fit `scheme: {scheme}`, read as .*row 1, w"):
        build(tmp_path, CASES[case] * 4, scheme=scheme)


def test_two_schemes_in_one_column_are_refused_with_counts_and_first_rows(tmp_path: Path) -> None:
    others = {
        "BIOES, but BILOU": CASES["bioes"] * 3 + CASES["bilou"],
        "BIO, but BIO (as PER-B)": CASES["bio"] * 3 + CASES["suffix"],
        "BIO, but BIO (as b-per)": CASES["bio"] * 3 + CASES["lower"],
    }
    for named, tags in others.items():
        with pytest.raises(ValueError, match=rf"the scheme of the others, {re.escape(named)}: .*Use one scheme"):
            build(tmp_path, tags)
    with pytest.raises(ValueError, match=r"10 of 144 .* 'U-PER' \(5 times, first in row 16, word 1\), 'L-LOC' \(row"):
        build(tmp_path, others["BIOES, but BILOU"])
    mixed = CASES["bioes"] + CASES["bio"] * 3
    with pytest.raises(ValueError) as caught:
        build(tmp_path, mixed)
    assert str(caught.value) == (
        "`tasks.ner`: the tags of source 'only' mix two schemes. In the split 'train', 30 spans have no end tag of"
        " BIOES (the first: row 6 of the split 'train' of source 'only', word 1: B-PER), 10 end with one (the first:"
        " row 1 of the split 'train' of source 'only', word 1: S-PER). Write all tags in one scheme, or set"
        " `tasks.ner.scheme: bioes` to read spans without an end tag, too."
    )
    assert entities(build(tmp_path, mixed, scheme="bioes")[1]) == expected("bio")


def test_a_few_spans_without_an_end_tag_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tags = CASES["bioes"] * 4
    tags[8] = "O O O B-LOC O"
    with caplog.at_level(logging.WARNING, "mtl_hf"):
        assert entities(build(tmp_path, tags)[1]) == expected("bio")
    assert ("Task ner: 1 spans of only train have no end tag of BIOES and end at their last tag (the first: row 9 of"
            " the split 'train' of source 'only', word 4: B-LOC).") in caplog.messages  # fmt: skip
    with pytest.raises(ValueError, match=r"1 spans have no end tag of BIOES \(the first: row 9 .*`bio: repair`"):
        build(tmp_path, tags, bio="refuse")


def test_scheme_is_refused_for_a_head_of_word_labels(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`tasks\.ner\.scheme` is io, but the labels of the trained head are not tags"
    ):
        build(tmp_path, CASES["plain"] * 4, given=["O", "PER", "LOC"], scheme="io")
    with pytest.raises(ValueError, match=r"`tasks\.ner\.scheme` is 'conll'"):
        build(tmp_path, CASES["plain"] * 4, scheme="conll")


def test_numbers_get_spans_by_their_names(tmp_path: Path) -> None:
    numbers = [" ".join({"O": "0", "PER": "1", "LOC": "2"}[tag] for tag in row.split()) for row in CASES["plain"]]
    names = {"0": "O", "1": "PER", "2": "LOC"}
    assert entities(build(tmp_path, numbers * 4, labels=names, scheme="io")[1]) == expected("plain")
