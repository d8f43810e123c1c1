"""Saved models whose files are damaged, made to harm, or do not belong together: one clear error, soon."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mtl_hf.hub.card import read_config
from mtl_hf.inference.embed import load_model
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from mtl_hf.saved.models import find_checkpoint

LABELS = ["booking", "music", "weather"]


@pytest.fixture(scope="module")
def saved(encoder_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("intent", type="sequence_classification", labels=LABELS)
    model.add_head("slots", type="token_classification", labels=["O", "B-city"])
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def change(folder: Path, key: str, value: Any) -> None:
    """Set a key such as `heads.intent.type` of config.json; `...` removes it."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    *above, last = key.split(".")
    place = config
    for part in above:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("heads", ["intent"], "`heads` is .* a mapping from names"),
        ("heads.intent", 1, "`heads.intent` is 1"),
        ("word_rules", ["st."], "`word_rules` is .* a mapping with words, shapes"),
        ("word_rules", {"word": []}, "`word_rules` is .* a mapping with words, shapes"),
        ("word_rules", {"words": "st."}, "`word_rules.words` is 'st.'; it should be a list of strings"),
        ("word_rules", {"end": [" "]}, "`word_rules.end` is .* a list of strings"),
        ("word_rules", {"words": ["st."] * 20_001}, "more than 20,000 rules"),
        ("heads.intent.type", ..., "it should be a mapping with a `type`"),
        ("heads.intent.type", "nope", "`heads.intent.type` is 'nope'; valid are sequence_classification"),
        ("heads.intent.labels", "abc", "`heads.intent.labels` is 'abc'; it should be a list of names"),
        ("heads.intent.labels", [1, 2, 3], "a list of names"),
        ("heads.intent.labels", ["a", "b", "a"], "`heads.intent.labels` names 'a' twice"),
        ("heads.intent.text", ..., "`heads.intent.text` is None; valid are string"),
        ("heads.intent.adapter", "other", "`heads.intent.adapter` is 'other'; the adapters are: none"),
        ("heads.a/b", {"type": "regression", "text": "string"}, "cannot be called 'a/b'"),
        ("adapters", {"shared": 3}, "`adapters.shared` is 3"),
        ("experts", {"num": 10**7, "hidden": 8}, "`experts.num` is 10,000,000; it should be at most 1,024"),
        ("experts", [1], "`experts` is"),
        ("text_config", ..., "`text_config` is None"),
        ("text_config.model_type", "nope", "`text_config.model_type` is 'nope'"),
        ("text_config.num_hidden_layers", 10**6, "num_hidden_layers` is 1,000,000; it should be at most 1,024"),
        ("text_config.num_hidden_layers", -1, "at least 1"),
        ("text_config.intermediate_size", 0, "`text_config.intermediate_size` is 0"),
        ("text_config.num_hidden_layers", "x", "num_hidden_layers"),
        ("text_config.vocab_size", 10**12, "`text_config.vocab_size` is"),
        ("max_length", "x", "`max_length` is 'x'"),
        ("pooling", 5, "pooling"),
        ("encoder_attn_implementation", "owner/kernel", "`encoder_attn_implementation` is 'owner/kernel'"),
        ("text_config.attn_implementation", "owner/kernel", "`text_config.attn_implementation`"),
    ],
)
def test_a_config_that_is_damaged_or_absurd_is_refused_with_its_key(
    key: str, value: Any, message: str, folder: Path
) -> None:
    change(folder, key, value)
    for load in (MultiTaskModel.from_pretrained, lambda path: find_checkpoint(path).load(), load_model):
        with pytest.raises(ValueError, match=message):
            load(str(folder))


def shards(folder: Path, index: str = "") -> None:
    """Weights in shards, of which none is there."""
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    whole = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")})
    (folder / "model.safetensors.index.json").write_text(index or whole, encoding="utf-8")


def pickled(folder: Path, name: str) -> None:
    """Weights in a pickle."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pickle")
    (folder / "model.safetensors").unlink()
    (folder / "pickle").rename(folder / name)


def without(folder: Path, tensor: str) -> None:
    """Weights that lack a tensor."""
    weights = load_file(folder / "model.safetensors")
    del weights[tensor]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model cannot be loaded: .*header"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10" * 5000), "model cannot be loaded: .*header"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda folder: pickled(folder, "pytorch_model.bin"), "pytorch_model.bin, a pickle.* only safetensors"),
        (lambda folder: pickled(folder, "model.safetensors"), "model cannot be loaded: .*header"),
        (shards, "model-00001-of-00002.safetensors"),
        (lambda folder: shards(folder, "["), "model cannot be loaded"),
        (lambda folder: shards(folder, "[]"), "model cannot be loaded"),
        (lambda folder: shards(folder, "{}"), "model cannot be loaded: KeyError 'weight_map'"),
        (lambda folder: change(folder, "heads.intent.labels", [*LABELS, "more"]),
         r"heads.intent.classifier.bias is \[3\] in the weights and \[4\] by config.json"),
        (lambda folder: change(folder, "text_config.num_hidden_layers", 4), "its weights lack encoder.*layer.3.* more"),
        (lambda folder: change(folder, "text_config.num_hidden_layers", 2), "its weights hold also encoder.*layer.2"),
        (lambda folder: change(folder, "max_length", 512), "`max_length` is 512; .* supports 3 to 64 tokens"),
        (lambda folder: without(folder, "heads.slots.classifier.weight"), "its weights lack heads.slots.classifier"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "the tokenizer of .* cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), "the tokenizer of .* cannot be loaded"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"added_tokens": [], "model": {"type": "x"}}'),
         "the tokenizer of .* cannot be loaded"),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "the tokenizer of .* cannot be loaded"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json does not contain a mapping"),
    ],
)  # fmt: skip
def test_files_that_are_damaged_or_do_not_belong_together_are_one_line(
    damage: Callable[[Path], Any], message: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=message):
        find_checkpoint(folder).load()
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


@pytest.mark.parametrize(("content", "message"), [("{", "cannot be read"), ("[]", "does not contain a mapping")])
def test_a_push_reads_no_damaged_config(content: str, message: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"config.json {message}"):
        read_config(folder)


def test_a_damaged_encoder_is_one_line(encoder_folder: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(encoder_folder, tmp_path / "encoder"))
    (folder / "model.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(ValueError, match=r"encoder' cannot be loaded: .*header"):
        MultiTaskModel.from_encoder(folder)
    change(folder, "num_hidden_layers", 10**6)
    with pytest.raises(ValueError, match=r"encoder cannot be loaded: config\.json: `num_hidden_layers` is 1,000,000"):
        MultiTaskModel.from_encoder(folder)


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    for load in (find_checkpoint, load_model, read_config):
        with pytest.raises(ValueError, match=r"no config\.json|cannot be loaded|no model can be loaded"):
            load(Path(tmp_path) if load is not load_model else str(tmp_path))
