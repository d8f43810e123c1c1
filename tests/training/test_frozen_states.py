"""Frozen work done once: the same losses, weights and scores as without, for all families and from any layer on."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModel, DebertaV2Config, ElectraConfig, MPNetConfig

from mtl_hf.training import frozen_states as module
from mtl_hf.training.arguments import read_arguments
from mtl_hf.training.frozen_states import FrozenStates, num_bytes
from tests.conftest import FAMILIES, SIZES, two_source_config, wordpiece_tokenizer
from tests.training.conftest import Built, TwoProcesses, build, feature_of, make_trainer, task_losses, weights
from tests.training.test_equivalence import compare, similarity_config

WHOLE, LOWER = ["encoder"], ["embeddings", "encoder.layers.0-1"]


def save(folder: Path, config: Any) -> str:
    tokenizer = wordpiece_tokenizer()
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def encoder_of(family: str, encoder_folders: dict[str, Path], folder: Path) -> str:
    more = {
        "electra": lambda: ElectraConfig(**SIZES, embedding_size=16),
        "mpnet": lambda: MPNetConfig(**SIZES),
        "deberta-v2 with a convolution": lambda: DebertaV2Config(
            **SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], conv_kernel_size=3, conv_act="gelu"
        ),
    }
    return save(folder / "encoder", more[family]()) if family in more else str(encoder_folders[family])


def train(built: Built, folder: Path, **options: Any) -> tuple[Any, Any, list[dict[str, float]]]:
    """A copy of the model, trained: losses and weights, scores of evaluations."""
    own = Built(copy.deepcopy(built.model), built.tasks, built.train, built.validation)
    trainer = make_trainer(own, folder, **options)
    torch.manual_seed(1)
    trainer.train()
    assert trainer.model.encoder.state_dict().keys() == built.model.encoder.state_dict().keys(), "all layers are back"
    scores = [{key: value for key, value in entry.items() if key.startswith("eval_") and "runtime" not in key}
              for entry in trainer.state.log_history if "eval_score" in entry]  # fmt: skip
    return task_losses(trainer), weights(own.model), scores


# Plain descent: Adam makes steps of rounding noise where a gradient is 0, as that of a key's bias.
SGD = {"optim": "sgd", "learning_rate": 0.05, "max_steps": 6, "eval_strategy": "steps", "eval_steps": 3}


@pytest.mark.parametrize(
    ("family", "freeze"),
    [("bert", WHOLE), ("modernbert", WHOLE), *((family, LOWER) for family in (*FAMILIES, "electra", "mpnet"))],
    ids=lambda value: value if isinstance(value, str) else "whole" if value is WHOLE else "lower layers",
)
def test_losses_weights_and_scores_are_those_without_it(family, freeze, encoder_folders, tmp_path):
    built = build(two_source_config(encoder_of(family, encoder_folders, tmp_path), tmp_path))
    plain = train(built, tmp_path / "plain", freeze=freeze, **SGD)
    cached = train(built, tmp_path / "cached", freeze=freeze, frozen_cache="1MB", **SGD)
    losses, elements, _ = compare(plain[:2], cached[:2])
    assert len(plain[0]) == 6
    assert losses < 1e-6
    assert elements < 1e-6
    for before, after in zip(plain[2], cached[2], strict=True):
        assert before == pytest.approx(after, abs=1e-6)
    moved = {name for name, tensor in weights(built.model).items() if not torch.equal(tensor, cached[1][name])}
    assert any(name.startswith("encoder.") for name in moved) == (freeze is LOWER)


def test_under_bf16_the_states_are_those_of_bf16(encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    plain = train(built, tmp_path / "plain", freeze=WHOLE, precision="bf16", **SGD)
    cached = train(built, tmp_path / "cached", freeze=WHOLE, precision="bf16", frozen_cache="1MB", **SGD)
    losses, _, norm = compare(plain[:2], cached[:2])
    assert losses < 2e-2
    assert norm < 1e-3


def pairs_config(encoder: str) -> dict[str, Any]:
    """Pairs whose texts are read apart, and heads that pool by attention, over two layers and by mean."""
    return similarity_config(encoder)


@pytest.mark.parametrize("freeze", [WHOLE, ["embeddings", "encoder.layers.0"]], ids=["whole", "lowest layer"])
def test_texts_read_apart_and_heads_that_average_layers(freeze, still_encoder_folder, tmp_path):
    built = build(pairs_config(still_encoder_folder))
    options = {"freeze": freeze, "optim": "sgd", "max_steps": 10}
    plain = train(built, tmp_path / "plain", **options)
    cached = train(built, tmp_path / "cached", frozen_cache="1MB", **options)
    losses, elements, _ = compare(plain[:2], cached[:2])
    assert losses < 1e-6
    assert elements < 1e-6
    trainer = make_trainer(copy.deepcopy(built), tmp_path, frozen_cache="1MB", freeze=freeze)
    assert feature_of(trainer, FrozenStates).layer == 1, "the last two of three layers are read"


def test_two_processes_take_the_steps_of_one(still_encoder_folder, tmp_path, two_processes: TwoProcesses):
    built = build(pairs_config(still_encoder_folder))
    built.model.double()
    options = {"freeze": ["embeddings", "encoder.layers.0"], "frozen_cache": "1MB", "max_steps": 6}
    whole = train(built, tmp_path / "one", per_device_train_batch_size=8, **options)
    shutil.rmtree(files(tmp_path)[0].parent)
    halves = two_processes(lambda: train(built, tmp_path / "two", per_device_train_batch_size=4, **options))
    assert compare(halves[0][:2], halves[1][:2]) == (0, 0, 0)
    losses, elements, _ = compare(whole[:2], halves[0][:2])
    assert losses < 1e-9
    assert elements < 1e-9


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "frozen_states").iterdir())


def test_a_file_is_computed_once_and_named_by_rows_weights_layer_and_precision(
    encoder_folder, tmp_path, monkeypatch, caplog
):
    built = build(two_source_config(encoder_folder, tmp_path))
    computed: list[int] = []
    fill = module.FrozenStates._fill
    monkeypatch.setattr(
        module.FrozenStates, "_fill", lambda self, rows, states: computed.append(len(rows)) or fill(self, rows, states)
    )

    def run(**options: Any) -> list[int]:
        computed.clear()
        options = {"freeze": WHOLE, "frozen_cache": "1MB"} | options
        make_trainer(copy.deepcopy(built), tmp_path / "run", **options).get_train_dataloader()
        return list(computed)

    all_rows = [len(rows) for rows in built.train.values()] + [len(split.rows) for split in built.validation.values()]
    assert run() == all_rows
    size = sum(path.stat().st_size for path in files(tmp_path))
    tokens = sum(len(ids) for rows in [*built.train.values(), *(split.rows for split in built.validation.values())]
                 for ids in rows["input_ids"])  # fmt: skip
    assert size == tokens * 32 * 4
    assert f"hidden states of {tokens:,} tokens after the encoder need {size / 1e6:.2f} MB, cached in" in caplog.text
    assert run(seed=3, frozen_cache="2MB") == []
    assert len(files(tmp_path)) == 4
    assert run(freeze=["embeddings", "encoder.layers.0"]) == all_rows
    assert run(precision="bf16") == all_rows
    built.train["reviews"] = built.train["reviews"].select(range(20))
    assert run() == [20]
    labels = built.train["reviews"].map(lambda row: {"label:stars": 1.0})
    built.train["reviews"] = labels
    assert run() == [], "labels do not matter"
    built.model.heads["intent"].classifier.weight.data += 1
    assert run() == [], "nor do heads"
    lower = {"freeze": ["embeddings", "encoder.layers.0"]}
    assert run(**lower) == [20]
    built.model.encoder.encoder.layer[2].output.dense.bias.data[0] += 1e-3
    assert run(**lower) == [], "nor do layers above"
    assert run() == [all_rows[0], 20, *all_rows[2:]]
    assert not list(tmp_path.glob("cache/frozen_states/.*"))


def test_frozen_layers_are_not_run_again(encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    options = {"freeze": LOWER, "frozen_cache": "1MB", "eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    make_trainer(copy.deepcopy(built), tmp_path, **options).get_train_dataloader()  # which fills the cache
    trainer = make_trainer(built, tmp_path, **options)
    runs: list[int] = []
    for number, layer in enumerate(built.model.encoder.encoder.layer):
        layer.register_forward_hook(lambda *_, number=number: runs.append(number))
    trainer.train()
    assert set(runs) == {2}, "of three layers the last is trained"
    assert len(runs) == 2 * (1 + len(built.validation)), "a training batch and one of each source, twice"
    trainer.score()
    assert runs[-3:] == [0, 1, 2], "after training weights may be others"


@pytest.mark.parametrize(
    "change",
    [{"attn_implementation": "eager"}, {"encoder_config": {"hidden_act": "relu"}},
     {"encoder_config": {"layer_norm_eps": 1e-2}}],
    ids=str,
)  # fmt: skip
def test_states_of_another_kernel_or_configuration_are_not_taken(change, encoder_folder, tmp_path, monkeypatch):
    def states(more: dict[str, Any]) -> torch.Tensor:
        config = two_source_config(encoder_folder, tmp_path)
        config["model"] |= more
        trainer = make_trainer(build(config), tmp_path, freeze=WHOLE, frozen_cache="1MB")
        return feature_of(trainer, FrozenStates).open()["train"]["assistant"].states.clone()

    first, again = states({}), states(change)
    assert len(files(tmp_path)) == 8, "a file for each source and split, twice"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "another"))
    assert torch.equal(again, states(change))
    if "encoder_config" in change:
        assert not torch.allclose(again, first, atol=1e-3)


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_states_of_another_version_of_a_library_are_not_taken(library, encoder_folder, tmp_path, monkeypatch):
    trainer = make_trainer(build(two_source_config(encoder_folder, tmp_path)), tmp_path, freeze=WHOLE,
                           frozen_cache="1MB")  # fmt: skip
    feature_of(trainer, FrozenStates).open()
    monkeypatch.setattr(getattr(module, library), "__version__", "99.0")
    feature_of(trainer, FrozenStates).open()
    assert len(files(tmp_path)) == 8


def test_the_same_tokens_read_otherwise_have_other_states(still_encoder_folder, tmp_path):
    """As one text and as two, and as the first and the second of a pair."""
    built = build(pairs_config(still_encoder_folder))
    name = next(name for name, rows in built.train.items() if "segments" in rows.column_names)
    opened = []
    for column, changed in ((None, None), ("segments", lambda row: [row["segments"][0] + 1, row["segments"][1] - 1]),
                            ("token_type_ids", lambda row: [1] * len(row["input_ids"]))):  # fmt: skip
        own = Built(built.model, built.tasks, dict(built.train), built.validation)
        if column:
            rows = own.train[name]
            own.train[name] = rows.map(lambda row, c=column, f=changed: {c: f(row)}, features=rows.features)
        trainer = make_trainer(own, tmp_path, freeze=["embeddings", "encoder.layers.0"], frozen_cache="1MB")
        opened.append(feature_of(trainer, FrozenStates).open()["train"][name].states.clone())
    assert not torch.allclose(opened[0], opened[1])
    assert not torch.allclose(opened[0], opened[2])


def test_a_file_that_is_too_short_is_computed_again_and_that_is_said(encoder_folder, tmp_path, caplog):
    built = build(two_source_config(encoder_folder, tmp_path))
    options = {"freeze": WHOLE, "frozen_cache": "1MB", "max_steps": 2}
    first = train(built, tmp_path / "run", **options)
    for path in files(tmp_path):
        path.write_bytes(path.read_bytes()[:-4])
    assert compare(first[:2], train(built, tmp_path / "again", **options)[:2]) == (0, 0, 0)
    damaged = [line for line in caplog.messages if "are damaged" in line]
    assert [path in line for path, line in zip(map(str, files(tmp_path)), sorted(damaged), strict=True)] == [True] * 4


def test_what_is_kept_is_what_the_encoder_says(encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    trainer = make_trainer(built, tmp_path, freeze=WHOLE, frozen_cache="1MB")
    rows = built.train["assistant"]
    states = feature_of(trainer, FrozenStates).open()["train"]["assistant"]
    built.model.eval()
    for row in (0, 7, 19):
        with torch.no_grad():
            alone = built.model.encoder(torch.tensor([rows[row]["input_ids"]])).last_hidden_state[0]
        torch.testing.assert_close(states.take([row]), alone, rtol=1e-5, atol=1e-5)
    both = torch.cat([states.take([7]), states.take([3])])
    assert torch.equal(states.take([7, 3]), both)
    assert torch.equal(states.select([5, 3, 7]).take([2, 1]), both)


# ---- mistakes ----


def test_more_than_the_cap_is_refused_before_anything_is_computed(encoder_folder, tmp_path, monkeypatch):
    built = build(two_source_config(encoder_folder, tmp_path))
    with pytest.raises(
        ValueError, match=r"`frozen_cache` is 0\.01 MB\. The hidden states of .* tokens after the encoder need 0"
    ):
        make_trainer(built, tmp_path, freeze=WHOLE, frozen_cache="0.01MB")
    assert not (tmp_path / "cache" / "frozen_states").exists()
    trainer = make_trainer(built, tmp_path, freeze=WHOLE, frozen_cache="1MB")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(ValueError, match=r"the states of \d+ rows need .* has 0\.00 MB free"):
        trainer.train()


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"frozen_cache": "4"}, r"`frozen_cache` is '4'; set the maximum size .* such as 500MB or 4GB"),
        ({"freeze": []}, r"`frozen_cache` stores the outputs of frozen layers, but `freeze` names none"),
        (
            {"unfreeze": {"schedule": "gradual", "every": 1}},
            r"unfreezes the whole encoder: unfreeze a part of it with `schedule: explicit`, or .* only parts that",
        ),
        (
            {"freeze": ["embeddings"], "unfreeze": {"when": "plateau"}},
            r"unfreezes the whole encoder: unfreeze a part of it with `schedule: explicit`, or .* only parts that",
        ),
        ({"activation_checkpointing": True}, r"`frozen_cache` and `activation_checkpointing` cannot be combined"),
    ],
)
def test_mistakes_that_need_no_model(training, message, tmp_path):
    section = {"output_dir": str(tmp_path), "use_cpu": True, "freeze": ["encoder"], "frozen_cache": "4GB"}
    with pytest.raises(ValueError, match=message):
        read_arguments(section | training)
    assert [num_bytes(size) for size in ("500MB", "1.5 GB", "2TB")] == [5 * 10**8, 15 * 10**8, 2 * 10**12]


@pytest.mark.parametrize("freeze", [["embeddings"], ["encoder.layers.0-2"], ["heads.stars"]], ids=str)
def test_without_a_frozen_bottom_it_is_refused(freeze, encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    with pytest.raises(ValueError, match="needs the embeddings and the lowest layers frozen for the whole run"):
        make_trainer(built, tmp_path, freeze=freeze, frozen_cache="1MB")


def test_of_parts_that_open_only_those_below_count(encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    for at, layer in (("encoder.layers.2", 2), ("encoder.layers.1-2", 1)):
        unfreeze = {"schedule": "explicit", "at": {at: 2}}
        own = copy.deepcopy(built)
        trainer = make_trainer(own, tmp_path, freeze=WHOLE, unfreeze=unfreeze, frozen_cache="1MB")
        assert feature_of(trainer, FrozenStates).layer == layer
    plain, cached = (
        train(built, tmp_path, freeze=WHOLE, unfreeze={"schedule": "explicit", "at": {"encoder.layers.2": 4}},
              max_steps=8, frozen_cache=size, optim="sgd")
        for size in (None, "1MB")
    )  # fmt: skip
    assert max(compare(plain[:2], cached[:2])) < 1e-6


def test_an_encoder_that_cannot_be_run_from_a_layer_on_is_refused(encoder_folders, tmp_path):
    """Of a DeBERTa with a convolution, that belongs to the first layer, whichever it is."""
    folder = encoder_of("deberta-v2 with a convolution", encoder_folders, tmp_path)
    built = build(two_source_config(folder, tmp_path))
    freeze = [*LOWER, "encoder.top"]
    if not any(part.startswith("encoder.encoder.conv") for part in built.model.state_dict()):
        pytest.fail("the encoder has no convolution")
    with pytest.raises(ValueError, match=r"`frozen_cache`: (a DebertaV2Model cannot run from layer 2|the outp)"):
        make_trainer(built, tmp_path, freeze=freeze, frozen_cache="1MB")
    make_trainer(build(two_source_config(folder, tmp_path)), tmp_path, freeze=WHOLE, frozen_cache="1MB")


def test_a_frozen_layer_that_depends_on_a_trained_part_is_refused(encoder_folder, tmp_path):
    built = build(two_source_config(encoder_folder, tmp_path))
    # as the norm of relative positions would be, which all layers read and which is declared after them
    norm = torch.nn.LayerNorm(SIZES["hidden_size"])
    built.model.encoder.add_module("norm", norm)
    built.model.encoder.encoder.layer[0].register_forward_pre_hook(lambda layer, args: (norm(args[0]), *args[1:]))
    with pytest.raises(ValueError, match=r"depend on trained parts, one of .*norm\.bias"):
        make_trainer(built, tmp_path, freeze=LOWER, frozen_cache="1MB")


def test_masked_rows_are_refused(encoder_folder, tmp_path):
    config = two_source_config(encoder_folder, tmp_path)
    rows = datasets.Dataset.from_list([{"text": f"play jazz {row}"} for row in range(30)])
    config["sources"]["raw"] = {"dataset": rows, "text": "text"}
    config["tasks"]["mlm"] = {"type": "masked_lm", "source": "raw"}
    with pytest.raises(ValueError, match=r"`frozen_cache` cannot be used with masked_lm .source 'raw'"):
        make_trainer(build(config), tmp_path, freeze=LOWER, frozen_cache="1MB")
