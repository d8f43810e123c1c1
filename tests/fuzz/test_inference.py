"""Property: any text is answered or refused by its number; a damaged model is loaded whole or refused by its folder."""

import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from mtl_hf.inference.embed import load_model
from mtl_hf.inference.predict import predict
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.saved.models import find_checkpoint
from tests.conftest import SENTENCES

from .conftest import attempt, inputs, names_its_place, try_all
from .oracle import MalformedError
from .strategies import ODD_TEXTS, File, csv_files, json_files
from .test_data import expected_rows

HEADS = ["intent", "topics", "stars", "slots", "both", "similar"]
PAIRED = ("both", "similar")


@pytest.fixture(scope="session")
def saved_model(encoder_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a head of each type."""
    model = MultiTaskModel.from_encoder(encoder_folders["bert"])
    model.add_head("intent", type="sequence_classification", labels=["music", "booking", "weather"])
    model.add_head("topics", type="multi_label_classification", labels=["food", "place"])
    model.add_head("stars", type="regression")
    model.add_head("slots", type="token_classification", labels=["O", "B-city", "I-city"])
    model.add_head("both", type="sequence_classification", labels=["yes", "no"], text="pair")
    model.add_head("similar", type="sentence_similarity")
    for spec in model.config.heads.values():
        spec["num_steps"] = 1
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded_model(saved_model: Path) -> MultiTaskModel:
    return MultiTaskModel.from_pretrained(saved_model)


strings = st.one_of(
    st.sampled_from(SENTENCES),
    st.sampled_from(ODD_TEXTS),
    st.text(st.characters(exclude_categories=()), max_size=30),
    st.sampled_from(["x " * 50_000, "x" * 100_000, "\ud800", "a\tb", "[MASK] [SEP] [CLS]", "\x00", "\n\n", "🙂" * 200]),
)
words = st.lists(strings, max_size=5)
pairs = st.tuples(strings, strings)
no_texts = st.sampled_from([
    None, 1, 1.5, True, b"bytes", {}, {"text": "a"}, (), ("a",), ("a", "b", "c"), (1, "a"), ("a", None), [None], [1],
    [["a"]],
    ["a", ["b"]], [("a", "b")], {"a", "b"}, float("nan"), object(), (["a"], ["b"]),
])  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What is asked of a model."""

    texts: Any
    options: dict[str, Any]
    fine: bool


@st.composite
def questions(draw: DrawFn) -> Question:
    """Texts of any form, some of which are none, with options of which some are none."""
    fine = draw(st.booleans())
    kinds = [strings, words, pairs] + ([] if fine else [no_texts])
    texts: Any = draw(st.lists(st.one_of(*kinds), max_size=5))
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        options["heads"] = draw(
            st.one_of(st.sampled_from(HEADS), st.lists(st.sampled_from(HEADS), min_size=1, max_size=3))
        )
    if draw(st.booleans()):
        options["batch_size"] = draw(st.sampled_from([1, 2, 32]))
    if draw(st.booleans()):
        options["top_k"] = draw(st.sampled_from([1, 2, None, 100]))
    if draw(st.booleans()):
        options["embeddings"] = draw(st.booleans())
    if not fine and draw(st.booleans()):
        name, values = draw(
            st.sampled_from([
                ("heads", ["nothing", "", [], ["intent", None], 3, ["x", "intent"]]), ("batch_size", [0, -1, 1.5, "a",
                None, 10**20]),
                ("top_k", [0, -1, "all", 1.5]), ("embeddings", ["x"]),
            ])
        )  # fmt: skip
        options[name] = draw(st.sampled_from(values))
    if not fine and draw(st.integers(0, 9)) == 0:
        texts = draw(st.one_of(no_texts, strings))
    return Question(texts, options, fine)


def numbers_of(answer: Any) -> list[float]:
    """All numbers in an answer."""
    if isinstance(answer, dict):
        return [number for value in answer.values() for number in numbers_of(value)]
    if isinstance(answer, list):
        return [number for value in answer for number in numbers_of(value)]
    return [answer] if isinstance(answer, int | float) else []


def check_answer(text: Any, answer: dict[str, Any], heads: list[str], top_k: int | None) -> None:
    """An answer is of the heads that read such a text, in finite numbers, with offsets that are right."""
    wanted = {head for head in heads if (head in PAIRED) == isinstance(text, tuple)}
    assert set(answer) - {"embedding", "cut"} == wanted
    json.dumps(answer, allow_nan=False)
    assert all(map(math.isfinite, numbers_of(answer)))
    for head in wanted & {"intent", "topics", "both"}:
        found = answer[head] if isinstance(answer[head], list) else [answer[head]]
        assert all(0 <= one["score"] <= 1 for one in found)
        if head != "topics" or top_k != 1:
            assert len(found) == min(top_k or 9, {"intent": 3, "topics": 2, "both": 2}[head])
    if "slots" in wanted:
        whole = " ".join(text) if isinstance(text, list) else text
        for entity in answer["slots"]:
            assert 0 <= entity["start"] <= entity["end"] <= len(whole)
            assert _without_halves(whole[entity["start"] : entity["end"]]) == entity["text"]


def _without_halves(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= sign <= "\udfff" else sign for sign in text)


@inputs(60, 500)
def test_texts_are_answered_or_refused_by_their_number(number: int, loaded_model: MultiTaskModel) -> None:
    def check(question: Question) -> None:
        answers, refusal = attempt(lambda: loaded_model.predict(question.texts, **question.options))
        if refusal:
            assert not question.fine, refusal
            assert names_its_place(refusal), refusal
            return
        assert len(answers) == len(question.texts)
        heads = question.options.get("heads", HEADS)
        heads = [heads] if isinstance(heads, str) else list(heads)
        for text, answer in zip(question.texts, answers, strict=True):
            check_answer(text, answer, heads, question.options.get("top_k", 1))

    try_all(number, questions(), check)


@inputs(25, 200)
def test_texts_are_embedded_or_refused(number: int, loaded_model: MultiTaskModel) -> None:
    options = st.fixed_dictionaries(
        {},
        optional={
            "pooling": st.sampled_from(["mean", "cls", "max", "mean_last_2", "attention", "x", "", 3]),
            "head": st.sampled_from([*HEADS, "x", "", 3]),
            "batch_size": st.sampled_from([1, 2, 0, -1, "a", 1.5]),
            "normalize": st.booleans(),
        },
    )

    def check(drawn: tuple[Any, dict[str, Any]]) -> None:
        texts, chosen = drawn
        found, refusal = attempt(lambda: loaded_model.encode(texts, **chosen))
        if refusal:
            assert names_its_place(refusal), refusal
            return
        assert found.shape == ((32,) if isinstance(texts, str) else (len(texts), 32))
        assert found.isfinite().all()

    several = st.lists(strings, max_size=3) | st.lists(pairs, max_size=3)
    try_all(number, st.tuples(several | st.lists(strings | pairs | no_texts, max_size=3) | strings, options), check)


@inputs(6, 150)
def test_files_are_answered_row_by_row_or_refused(number: int, saved_model: Path) -> None:
    def check(file: File) -> None:
        try:
            expected = [text for _, text, _ in expected_rows(file)]
        except MalformedError:
            expected = None  # of its texts alone it may be possible to tell
        with tempfile.TemporaryDirectory() as folder:
            path, to = Path(folder) / file.name, Path(folder) / "answers.jsonl"
            path.write_bytes(file.content)
            options = {"file": str(path), "text": "text", "to": str(to), "heads": ["intent", "slots"]}
            _, refusal = attempt(lambda: predict(str(saved_model), **options))
            if refusal:
                assert not (file.clean and "encoding" not in file.source and "sep" not in file.source), refusal
                assert names_its_place(refusal), refusal
                assert [one.name for one in Path(folder).iterdir()] == [file.name]  # nothing half written
                return
            rows = [json.loads(line) for line in to.read_text(encoding="utf-8").split("\n")[:-1]]
        if expected is not None:
            assert [row["text"] for row in rows] == [_answered(text) for text in expected]
        for row in rows:
            answer = {key: value for key, value in row.items() if key not in ("id", "text")}
            check_answer(row["text"], answer, ["intent", "slots"], 1)

    try_all(number, csv_files() | json_files(), check)


def _answered(text: Any) -> Any:
    """An empty cell is answered as the empty text."""
    return _without_halves(text) if isinstance(text, str) else "" if text is None else json.dumps(text)


lines = st.lists(st.one_of(st.sampled_from(SENTENCES), st.text(max_size=20), st.sampled_from(ODD_TEXTS)), max_size=5)
some_bytes = st.one_of(
    lines.map(lambda found: "\n".join(found).encode("utf-8", "surrogatepass")), st.binary(max_size=60)
)


@inputs(8, 150)
def test_lines_are_answered_or_refused_by_their_number(number: int, saved_model: Path) -> None:
    def check(content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path, to = Path(folder) / "texts.txt", Path(folder) / "answers.jsonl"
            path.write_bytes(content)
            _, refusal = attempt(lambda: predict(str(saved_model), file=str(path), to=str(to), heads=["intent"]))
            if refusal:
                assert "texts.txt" in refusal, refusal
                assert not to.exists()
                return
            found = [json.loads(line)["text"] for line in to.read_text(encoding="utf-8").split("\n")[:-1]]
        expected = content.decode("utf-8-sig").split("\n")
        expected = [line.rstrip("\r") for line in (expected[:-1] if expected[-1] == "" else expected)]
        assert found == expected

    try_all(number, some_bytes, check)


# ---- saved models ----


@dataclass(frozen=True)
class Damage:
    """What is done to one file of a saved model."""

    file: str
    how: str
    at: float = 0.0
    path: tuple[str, ...] = ()
    value: Any = None

    def __call__(self, folder: Path) -> None:
        """Do it."""
        target = folder / self.file
        content = target.read_bytes()
        place = int(self.at * len(content))
        if self.how == "remove":
            target.unlink()
        elif self.how == "cut":
            target.write_bytes(content[:place])
        elif self.how == "flip" and content:
            target.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        elif self.how == "garbage":
            target.write_bytes(self.value)
        elif self.how in ("set", "drop"):
            tree = json.loads(content)
            inner = tree
            for key in self.path[:-1]:
                inner = inner[key]
            if self.how == "drop":
                inner.pop(self.path[-1], None)
            else:
                inner[self.path[-1]] = self.value
            target.write_text(json.dumps(tree), encoding="utf-8")


_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
_PATHS = [
    ("config.json", (key,))
    for key in ("heads", "text_config", "pooling", "max_length", "experts", "adapters", "model_type", "architectures",
    "dtype", "transformers_version")
] + [
    ("config.json", ("text_config", key))
    for key in ("num_hidden_layers", "hidden_size", "vocab_size", "num_attention_heads", "intermediate_size",
    "model_type", "hidden_act",
                "max_position_embeddings", "pad_token_id", "layer_norm_eps")
] + [
    ("config.json", ("heads", "intent")), ("config.json", ("heads", "new")),
    *(("config.json", ("heads", "intent", key)) for key in ("type", "labels", "text", "pooling", "dropout",
    "num_steps", "new")),
    *(("config.json", ("heads", "slots", key)) for key in ("type", "labels", "text")),
    *(("tokenizer.json", (key,)) for key in ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder",
    "added_tokens", "version")),
    *(("tokenizer_config.json", (key,)) for key in ("tokenizer_class", "pad_token", "model_max_length", "cls_token",
    "auto_map")),
]  # fmt: skip
_ODD_VALUES = [
    None, True, "", "x", "../../x", 0, -1, 1, 7, 1.5, 10**6, 10**20, float("nan"), [], {}, [None], ["a"], ["a", "a",
    "b"], {"a": 1},
    {"type": "sequence_classification"}, {"type": "sequence_classification", "labels": ["a", "b"], "text": "string"},
    "bert", "mean",
    "attention", "words", "regression", "float64", [[]], "\ud800", ["a"] * 1000,
]  # fmt: skip


@st.composite
def damages(draw: DrawFn) -> Damage:
    """Any of the files removed, cut, changed in one byte or replaced; any field of its JSON changed."""
    how = draw(st.sampled_from(["remove", "cut", "flip", "garbage", "set", "set", "set", "drop"]))
    if how in ("set", "drop"):
        file, path = draw(st.sampled_from(_PATHS))
        return Damage(file, how, path=path, value=draw(st.sampled_from(_ODD_VALUES)) if how == "set" else None)
    file = draw(st.sampled_from(_FILES))
    value = draw(
        st.sampled_from(
            [b"", b"{}", b"[]", b"null", b"\x80\x04N.", b"x" * 100, b"\xff" * 16, b"PK\x03\x04", b"\0" * 64]
        )
    )
    return Damage(file, how, draw(st.floats(0, 1, exclude_max=True)), value=value)


def _answer(model: MultiTaskModel, texts: list[Any]) -> tuple[list[dict[str, Any]], set[str]]:
    return model.predict(texts), set(model.config.heads)


@inputs(15, 300)
def test_a_damaged_model_is_loaded_whole_or_refused_by_its_folder(number: int, saved_model: Path) -> None:
    texts = ["play jazz in rome", ("play jazz", "in rome")]

    def check(damage: Damage) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model"
            shutil.copytree(saved_model, folder)
            damage(folder)
            for load in (load_model, lambda path: find_checkpoint(path).load()):
                answered, refusal = attempt(lambda load=load: _answer(load(str(folder)), texts))
                if refusal:
                    assert str(folder) in refusal or names_its_place(refusal), refusal
                    assert len(refusal) < 3000
                    continue
                answers, heads = answered
                json.dumps(answers)
                assert {head for answer in answers for head in answer if head != "cut"} == heads

    try_all(number, damages(), check)
