"""Adapters against independent references; saved, merged, removed, one for all heads or one a task."""

import copy
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, ElectraConfig, MPNetConfig

from mtl_hf.modeling.adapters import adapter_layers, adapter_parameters
from mtl_hf.modeling.bottleneck import find_projections
from mtl_hf.modeling.modeling_multitask import MultiTaskModel
from tests.conftest import FAMILIES, SENTENCES, SIZES

LORA = {"type": "LoraConfig", "r": 4, "target_modules": "all-linear"}
HOULSBY = {"type": "BottleneckConfig", "reduction": 8}
PFEIFFER = {"type": "BottleneckConfig", "kind": "pfeiffer"}
# What the projections of attention and feed-forward block of a layer are called, in each family.
PROJECTIONS = {
    "bert": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"),
    "roberta": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"),
    "electra": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"),
    "deberta-v2": ("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense"),
    "mpnet": ("encoder.layer.{}.attention.attn.o", "encoder.layer.{}.output.dense"),
    "distilbert": ("transformer.layer.{}.attention.out_lin", "transformer.layer.{}.ffn.lin2"),
    "modernbert": ("layers.{}.attn.Wo", "layers.{}.mlp.Wo"),
}


@pytest.fixture(scope="session")
def plain_models(encoder_folders: dict[str, Path]) -> dict[str, MultiTaskModel]:
    """Family → a model with two heads and no adapter, to be copied, not changed."""
    models = {}
    for family in FAMILIES:
        model = MultiTaskModel.from_encoder(encoder_folders[family])
        model.add_head("slots", type="token_classification", labels=["O", "B-city"])
        model.add_head("intent", type="sequence_classification", labels=["music", "booking"], pooling="mean_last_2")
        for spec in model.config.heads.values():
            spec["num_steps"] = 1
        models[family] = model
    return models


@pytest.fixture
def bert(plain_models: dict[str, MultiTaskModel]) -> MultiTaskModel:
    return copy.deepcopy(plain_models["bert"])


def stir(model: MultiTaskModel, only: str | None = None) -> MultiTaskModel:
    """Give adapters, or one of them, weights as after training."""
    owners = adapter_parameters(model.encoder)
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if name in owners and only in (None, owners[name]):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_batch(model: MultiTaskModel) -> dict[str, Tensor]:
    return dict(model.tokenizer(SENTENCES[:4], padding=True, return_tensors="pt"))


@torch.no_grad()
def logits(model: MultiTaskModel, **options: Any) -> dict[str, Tensor]:
    return model(**make_batch(model), **options).logits


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def trainable(model: MultiTaskModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        *((family, spec) for family in FAMILIES for spec in (LORA, HOULSBY)),
        ("bert", PFEIFFER),
        ("bert", LORA | {"per_task": True}),
    ],
    ids=str,
)
def test_an_adapter_begins_as_nothing_and_is_saved_and_loaded_bit_for_bit(family, spec, plain_models, tmp_path):
    model = copy.deepcopy(plain_models[family])
    before, own = logits(model), {name for name, _ in model.encoder.named_parameters()}
    model.adapt(**spec)
    assert equal(logits(model), before)
    added = {f"encoder.{name}" for name in adapter_parameters(model.encoder)}
    assert len(own) + len(added) == len(list(model.encoder.parameters()))
    assert trainable(model) == added | {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    stir(model)
    after = logits(model)
    assert not any(torch.equal(after[name], before[name]) for name in after)
    model.save_pretrained(tmp_path)
    loaded, info = MultiTaskModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert equal(logits(loaded), after)
    assert trainable(loaded) == trainable(model)
    assert loaded.config.adapters == model.config.adapters
    assert loaded.predict(SENTENCES[:3]) == model.predict(SENTENCES[:3])


def test_lora_adds_the_product_of_its_matrices_to_each_weight(bert):
    plain = copy.deepcopy(bert)
    bert.adapt(**LORA, lora_alpha=6)
    stir(bert)
    state = bert.encoder.state_dict()
    assert sum(".lora_A." in name for name in state) == 18  # six linear layers in each of three
    with torch.no_grad():
        for name, parameter in plain.encoder.named_parameters():
            layer, _, kind = name.rpartition(".")
            if kind == "weight" and f"{layer}.lora_A.shared.weight" in state:
                product = state[f"{layer}.lora_B.shared.weight"] @ state[f"{layer}.lora_A.shared.weight"]
                parameter.add_(6 / 4 * product)
    wanted, found = logits(plain), logits(bert)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)


@pytest.mark.parametrize(
    ("family", "kind"), [*((family, "houlsby") for family in FAMILIES), ("modernbert", "pfeiffer")]
)
def test_a_bottleneck_stands_behind_the_projections_that_the_family_names(family, kind, plain_models):
    model = copy.deepcopy(plain_models[family])
    model.adapt("BottleneckConfig", kind=kind, reduction=10)
    stir(model)
    reference = copy.deepcopy(plain_models[family])
    state = model.encoder.state_dict()

    def behind(place: str) -> Any:
        down, up = (
            (state[f"{place}.bottlenecks.shared.{name}.weight"], state[f"{place}.bottlenecks.shared.{name}.bias"])
            for name in ("down", "up")
        )
        assert down[0].shape == (3, 32)

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            inner = output @ down[0].T + down[1]
            return output + (0.5 * inner * (1 + torch.erf(inner / 2**0.5))) @ up[0].T + up[1]

        return hook

    for number in range(3):
        for name in PROJECTIONS[family][0 if kind == "houlsby" else 1 :]:
            place = name.format(number)
            reference.encoder.get_submodule(place).register_forward_hook(behind(place))
    wanted, found = logits(reference), logits(model)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)
    assert len(adapter_layers(model.encoder)) == (6 if kind == "houlsby" else 3)


@pytest.mark.parametrize("config", [MPNetConfig, ElectraConfig])
def test_projections_are_found_in_other_families_too(config):
    encoder = AutoModel.from_config(config(**SIZES | {"vocab_size": 50, "embedding_size": 16}))
    names = PROJECTIONS[encoder.config.model_type]
    assert find_projections(encoder) == [name.format(number) for number in range(3) for name in names]
    assert find_projections(encoder, "pfeiffer") == [names[1].format(number) for number in range(3)]


def test_an_encoder_whose_projections_are_not_clear_is_refused(bert, encoder_folder):
    model = MultiTaskModel.from_encoder(encoder_folder, pretrained=False, encoder_config={"intermediate_size": 32})
    with pytest.raises(ValueError, match=r"BertModel is ambiguous: layer 0 has 0 linear layers from another"):
        model.adapt("BottleneckConfig")


def test_with_an_adapter_a_task_each_head_reads_with_its_own(bert):
    plain = copy.deepcopy(bert)
    bert.adapt(**LORA, per_task=True)
    stir(bert)
    together = logits(bert)
    for task in ("slots", "intent"):
        alone = copy.deepcopy(plain)
        alone.adapt(**LORA)
        state = {
            name.replace(f".{task}.", ".shared."): tensor
            for name, tensor in bert.encoder.state_dict().items()
            if ".lora_" not in name or f".{task}." in name
        }
        alone.encoder.load_state_dict(state)
        assert torch.equal(logits(alone, heads=task)[task], together[task])
        assert torch.equal(logits(bert, heads=task)[task], together[task])
        assert bert.predict(SENTENCES, heads=task) == alone.predict(SENTENCES, heads=task)
    assert [{**one} for one in bert.predict(SENTENCES)] == [
        one | other
        for one, other in zip(
            bert.predict(SENTENCES, heads="slots"), bert.predict(SENTENCES, heads="intent"), strict=True
        )
    ]
    # Without a head an embedding is that of the bare encoder, which nothing has changed.
    assert torch.equal(bert.encode(SENTENCES), plain.encode(SENTENCES))
    assert torch.equal(bert.encode(SENTENCES), plain.encode(SENTENCES))
    assert not torch.equal(bert.encode(SENTENCES, head="intent"), plain.encode(SENTENCES, head="intent"))


def test_a_thread_does_not_read_with_the_adapter_of_another(bert):
    bert.adapt(**LORA, per_task=True)
    stir(bert)
    alone = {task: bert.predict(SENTENCES, heads=task) for task in ("slots", "intent")}
    found: dict[str, Any] = {}
    other = threading.Thread(target=lambda: found.update(intent=bert.predict(SENTENCES, heads="intent")))

    def interrupt(*_: Any) -> None:
        """Let the other thread choose its adapter after this one has, if it can."""
        hook.remove()
        other.start()
        other.join(timeout=1)

    hook = bert.encoder.register_forward_pre_hook(interrupt)
    found["slots"] = bert.predict(SENTENCES, heads="slots")
    other.join()
    assert found == alone


def test_an_embedding_is_made_with_the_adapter_of_all_heads(bert):
    plain = bert.encode(SENTENCES)
    bert.adapt(**HOULSBY)
    assert torch.equal(bert.encode(SENTENCES), plain)
    stir(bert)
    merged = bert.adapted_states("shared", **make_batch(bert))
    mask = make_batch(bert)["attention_mask"][:, :, None]
    mean = (merged * mask).sum(1) / mask.sum(1)
    assert torch.allclose(bert.encode(SENTENCES[:4]), mean.detach(), atol=1e-6)
    assert not torch.allclose(bert.encode(SENTENCES), plain)


@pytest.mark.parametrize("spec", [LORA, HOULSBY], ids=str)
def test_a_loss_reaches_the_adapter_of_its_head_alone(bert, spec):
    bert.adapt(**spec, per_task=True)
    stir(bert)
    labels = {"intent": torch.tensor([0, 1, 0, 1])}
    bert(**make_batch(bert), heads="slots")  # another one was in use
    bert(**make_batch(bert), labels=labels).loss.backward()
    owners = adapter_parameters(bert.encoder)
    assert set(owners.values()) == {"slots", "intent"}
    for name, parameter in bert.encoder.named_parameters():
        assert (parameter.grad is not None) == (owners.get(name) == "intent"), name
        assert parameter.requires_grad == (name in owners)


def test_hidden_states_of_heads_with_adapters_of_their_own_are_asked_for_one_by_one(bert):
    bert.adapt(**LORA, per_task=True)
    with pytest.raises(ValueError, match=r"slots, intent have different adapters"):
        bert(**make_batch(bert), output_hidden_states=True)
    assert len(bert(**make_batch(bert), heads="slots", output_hidden_states=True).hidden_states) == 4


# ---- merging and removing ----


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_model_is_a_plain_one_with_the_same_answers(family, plain_models, tmp_path):
    model = copy.deepcopy(plain_models[family])
    names = set(model.state_dict())
    model.adapt(**LORA)
    stir(model)
    before = logits(model)
    model.merge_adapters()
    after = logits(model)
    assert all(torch.allclose(after[name], before[name], atol=1e-5) for name in before)
    assert model.config.adapters is None
    assert set(model.state_dict()) == names == trainable(model)
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["adapters"] is None
    assert not any("adapter" in spec for spec in saved["heads"].values())
    assert equal(logits(MultiTaskModel.from_pretrained(tmp_path)), after)


def test_of_adapters_of_their_own_one_is_merged_with_its_heads(bert):
    bert.adapt(**LORA, per_task=True)
    bert.add_head("mood", type="regression", adapter="intent")
    bert.add_head("bare", type="regression")
    stir(bert)
    before = logits(bert)
    with pytest.raises(ValueError, match=r"several adapters \(slots, intent\), .* choose it with `task`"):
        bert.merge_adapters()
    with pytest.raises(ValueError, match="no head 'tone'"):
        bert.merge_adapters("tone")
    with pytest.raises(ValueError, match="'bare' uses the encoder without an adapter"):
        bert.merge_adapters("bare")
    bert.merge_adapters("intent")
    after = logits(bert)
    assert list(after) == ["intent", "mood"]
    assert all(torch.allclose(after[name], before[name], atol=1e-5) for name in after)
    assert not any("adapter" in spec for spec in bert.config.heads.values())
    with pytest.raises(ValueError, match="no adapters to merge"):
        bert.merge_adapters()


def test_a_bottleneck_cannot_be_merged(bert):
    bert.adapt(**HOULSBY)
    stir(bert)
    before = logits(bert)
    with pytest.raises(ValueError, match=r"cannot be merged .*: a bottleneck adapter is not linear"):
        bert.merge_adapters()
    assert equal(logits(bert), before)


@pytest.mark.parametrize("spec", [LORA, HOULSBY], ids=str)
def test_an_adapter_goes_with_the_last_head_that_reads_with_it(bert, spec):
    plain = copy.deepcopy(bert)
    bert.adapt(**spec, per_task=True)
    bert.add_head("mood", type="regression", adapter="intent")
    stir(bert)
    before = logits(bert, heads="slots")
    bert.remove_head("intent")
    assert list(bert.config.adapters) == ["slots", "intent"]
    bert.remove_head("mood")
    assert list(bert.config.adapters) == ["slots"]
    assert set(adapter_parameters(bert.encoder).values()) == {"slots"}
    assert equal(logits(bert, heads="slots"), before)
    bert.rename_head("slots", "tags")
    assert torch.equal(logits(bert)["tags"], before["slots"])
    bert.remove_head("tags")
    assert bert.config.adapters is None
    assert set(bert.encoder.state_dict()) == set(plain.encoder.state_dict())
    assert torch.equal(bert.encode(SENTENCES), plain.encode(SENTENCES))
    bert.adapt(**spec)  # it is a plain model again


@pytest.mark.parametrize("spec", [LORA | {"lora_dropout": 0.5}, {"type": "IA3Config"}, HOULSBY], ids=str)
def test_a_renamed_head_renames_its_adapter(bert, spec, tmp_path):
    bert.adapt(**spec, per_task=True)
    bert.eval()
    bert.add_head("mood", type="regression", adapter="slots")
    stir(bert)
    before, parameters, moving = logits(bert), dict(bert.named_parameters()), trainable(bert)
    bert.rename_head("slots", "tags")
    assert list(bert.config.adapters) == ["tags", "intent"]
    assert [found["adapter"] for found in bert.config.heads.values()] == ["tags", "intent", "tags"]
    assert not any(module.training for module in bert.encoder.modules())
    assert equal(logits(bert), {"tags": before["slots"], "intent": before["intent"], "mood": before["mood"]})
    for name, parameter in bert.named_parameters():
        assert torch.equal(parameter, parameters[re.sub(r"\.tags\b", ".slots", name)]), name
    assert trainable(bert) == {re.sub(r"\.slots\b", ".tags", name) for name in moving}
    bert.save_pretrained(tmp_path)
    loaded, info = MultiTaskModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert equal(logits(loaded), logits(bert))


def test_an_adapter_is_not_renamed_to_what_another_is_called(bert):
    bert.adapt(**HOULSBY, per_task=True)
    bert.add_head("mood", type="regression", adapter="intent")
    bert.remove_head("intent")  # whose adapter stays with the other head
    before = copy.deepcopy(bert.config.heads)
    for new, whose in {"intent": "head 'mood'", "shared": "all heads"}.items():
        with pytest.raises(
            ValueError, match=f"'{new}' is already the name of the adapter of {whose}: choose another name"
        ):
            bert.rename_head("slots", new)
    assert bert.config.heads == before
    bert.rename_head("mood", "feeling")
    assert list(bert.config.adapters) == ["slots", "intent"], "it is called as another head was"


def test_a_model_with_adapters_is_an_encoder_for_another(bert, tmp_path):
    bert.adapt(**LORA)
    stir(bert).save_pretrained(tmp_path / "shared")
    encoder = MultiTaskModel.from_encoder(tmp_path / "shared")
    assert not encoder.heads
    assert list(encoder.config.adapters) == ["shared"]
    assert torch.equal(encoder.encode(SENTENCES), bert.encode(SENTENCES))
    fresh = MultiTaskModel.from_encoder(tmp_path / "shared", pretrained=False)
    assert fresh.config.adapters is None, "in an encoder that knows nothing they would be all that is trained"
    assert not any("lora" in name for name, _ in fresh.named_parameters())
    assert all(parameter.requires_grad for parameter in fresh.parameters())
    with pytest.raises(ValueError, match=r"already has adapters \(shared\)"):
        encoder.adapt(**LORA)


def test_code_that_travels_loads_adapters_where_the_package_is_not_imported(bert, tmp_path):
    bert.adapt(**LORA, per_task=True)
    stir(bert).save_pretrained(tmp_path / "model")
    torch.save(logits(bert), tmp_path / "logits.pt")
    torch.save(make_batch(bert), tmp_path / "batch.pt")
    script = """
import sys, torch
sys.modules["mtl_hf"] = None
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1] + "/model", trust_remote_code=True)
with torch.no_grad():
    found = model(**torch.load(sys.argv[1] + "/batch.pt")).logits
wanted = torch.load(sys.argv[1] + "/logits.pt")
assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
sys.modules["peft"] = None
try:
    AutoModel.from_pretrained(sys.argv[1] + "/model", trust_remote_code=True)
except ImportError as error:
    assert "pip install 'mtl_hf[adapters]'" in str(error)
else:
    raise AssertionError("loaded without peft")
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True, text=True, check=False, env={"HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# ---- what is refused ----


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "LoraConfg"}, r"`peft\.type` is 'LoraConfg'\. Did you mean `LoraConfig`\? Valid are: .*IA3Config"),
        ({"type": "BottleneckConfg"}, r"Did you mean `BottleneckConfig`\?"),
        ({"type": "PrefixTuningConfig"}, r"'PrefixTuningConfig', which cannot be used .* changes the inputs .* ignore"),
        ({"type": "VeraConfig"}, r"'VeraConfig', which cannot be used here: .* stores weights outside of it"),
        ({"type": "AdaLoraConfig"}, r"'AdaLoraConfig', which cannot be used here: its ranks are reduced by calls"),
        ({"type": "LoraConfig", "rank": 8}, r"`peft\.rank` is not an argument of LoraConfig\."),
        ({"type": "LoraConfig", "target_module": "x"}, r"target_module` is not .* Did you mean `target_modules`\?"),
        ({"type": "LoraConfig", "inference_mode": True}, r"`peft\.inference_mode` is not an argument"),
        ({"type": "BottleneckConfig", "r": 8}, r"`peft\.r` is not an argument .* Valid are: reduction, kind\."),
        ({"type": "BottleneckConfig", "kind": "Houlsby"}, r"`kind` is 'Houlsby'; valid are houlsby, pfeiffer"),
        ({"type": "BottleneckConfig", "reduction": 0}, r"`reduction` is 0; it should be a number of at least 1"),
        ({"type": "LoraConfig", "modules_to_save": ["x"]}, r"`peft\.modules_to_save` would train or copy"),
        ({"type": "LoraConfig", "bias": "all"}, r"`peft\.bias` would train or copy"),
        ({"type": "LoraConfig", "init_lora_weights": "pissa"}, r"'pissa', which changes the encoder's own weights"),
        ({"type": "LoraConfig", "use_dora": True, "lora_bias": True}, r"LoraConfig rejects its arguments: .*DoRA"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(bert, spec, message):
    before = bert.state_dict().keys()
    with pytest.raises(ValueError, match=message):
        bert.adapt(**spec)
    assert bert.state_dict().keys() == before
    assert not bert.config.adapters


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"type": "LoraConfig", "target_modules": ["nothing"]}, r"LoraConfig does not fit BertModel: .*nothing"),
        ({"type": "LoraConfig", "r": "eight"}, r"LoraConfig does not fit BertModel: "),
        (
            {"type": "OFTConfig", "target_modules": "all-linear", "oft_block_size": 0, "r": 2},
            r"'OFTConfig', which has tensors .* that are not saved with the weights",
        ),
    ],
)
def test_what_does_not_fit_the_encoder_is_refused_too(bert, spec, message):
    with pytest.raises(ValueError, match=message):
        bert.adapt(**spec)


def test_adapters_of_their_own_need_heads_that_may_be_called_so(bert, encoder_folder):
    with pytest.raises(ValueError, match="no heads to give adapters to"):
        MultiTaskModel.from_encoder(encoder_folder).adapt(**LORA, per_task=True)
    bert.rename_head("intent", "shared")
    with pytest.raises(ValueError, match="a task cannot be called 'shared'"):
        bert.adapt(**LORA, per_task=True)
    with pytest.raises(ValueError, match="`adapter` is 'nobody'; the adapters of the model are: none"):
        bert.add_head("mood", type="regression", adapter="nobody")


def test_without_peft_the_way_to_get_it_is_named(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"pip install 'mtl_hf\[adapters\]'"):
        bert.adapt(**LORA)
    bert.adapt(**HOULSBY)  # which is ours


def test_what_was_left_to_peft_is_written_down(bert):
    bert.adapt("LoraConfig")
    assert bert.config.adapters["shared"].items() >= {
        "type": "LoraConfig", "r": 8, "lora_alpha": 8, "target_modules": ["query", "value"]
    }.items()  # fmt: skip


# ---- changes that fail leave the model as it was ----


def adapted(encoder_folder: str) -> MultiTaskModel:
    """A model with a shared LoRA that does something."""
    model = MultiTaskModel.from_encoder(encoder_folder)
    model.add_head("intent", type="sequence_classification", labels=["music", "booking"])
    model.adapt("LoraConfig", r=2, target_modules="all-linear")
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    return model


def test_a_merge_that_a_later_layer_refuses_changes_nothing(encoder_folder: str) -> None:
    model = adapted(encoder_folder)
    last = list(adapter_layers(model.encoder).values())[-1]
    with torch.no_grad():
        last.lora_A["shared"].weight[0, 0] = float("nan")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"cannot be merged into the encoder \(encoder\.layer\.2\.output\.dense\)"):
        model.merge_adapters()
    after = model.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)
    assert not any(layer.merged for layer in adapter_layers(model.encoder).values())
    assert list(model.config.adapters) == ["shared"]


def test_an_adapter_that_a_later_module_refuses_changes_nothing(encoder_folder: str) -> None:
    model = MultiTaskModel.from_encoder(encoder_folder)
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(ValueError, match="does not fit BertModel"):
        model.adapt("LoraConfig", r=2, target_modules=["query", "LayerNorm"])
    assert [name for name, _ in model.named_modules()] == names
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.config.adapters is None
    model.adapt("LoraConfig", r=2, target_modules=["query"])
