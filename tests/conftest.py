"""Tiny tokenizers, encoders and data, made in memory: tests need no network and no downloaded files."""

import gc
import json
import logging
import os
import signal
import subprocess
import threading
from pathlib import Path

import datasets
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizer,
)

from mtl_hf.config import RunConfig
from tests.forked import ForkedPopen

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start
signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # ignored in the background of a shell, and so by what we start
# By default bars share one lock with all forked processes: one that a test kills would never give it back.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0

SENTENCES = [
    "play some jazz in paris",
    "play the new album by nina",
    "book a table for two in rome",
    "book a small table near the river",
    "will it rain in oslo tomorrow",
    "is it warm in rome today",
    "play jazz today",
    "reserve a room for tomorrow in oslo",
]
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
FAMILIES = ("bert", "distilbert", "roberta", "deberta-v2", "modernbert")


@pytest.fixture(scope="module", autouse=True)
def _frozen_imports() -> None:
    """Leave what has been imported, a million objects, out of `gc.collect()`, which every run calls (0.4 s)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Same numbers at every run; caches of encoded rows die with the test; one thread, as two processes also have."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()
    logging.getLogger("mtl_hf").setLevel(logging.INFO)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of Python run in forks of this process, without the 6 s that imports take."""
    monkeypatch.setattr(subprocess, "Popen", ForkedPopen)


@pytest.fixture(params=["forked", pytest.param("real", marks=pytest.mark.slow)])
def processes(request: pytest.FixtureRequest) -> str:
    """How commands of Python are started: in forks, and by the slow tests as users start them."""
    if request.param == "forked":
        request.getfixturevalue("forked")
    return request.param


# What a `WordPieceTrainer` finds in the sentences beside single letters, written down: its numbering, and even what it
# finds, differ from one process to the next (the order of its hash maps), and so would every trained model.
PIECES = (
    "##om in ##ay ##or pl ##ar ##ome play bo for it ja ne os rome ta th to tom ##ble ##day ##er ##in ##le ##ll ##lo"
    " ##ok ##ow ##row ##zz ##orrow book jazz oslo table the today tomorrow al by is nin par ra re ri ro sm some tw war"
    " wi ##all ##bu ##is ##ser ##ve ##ver albu near new nina paris rain reser river room small two warm will album"
    " reserve"
)


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """A small uncased WordPiece tokenizer, as BERT's."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abdefhijklmnoprstuvwyz"]
    vocabulary += [f"##{letter}" for letter in "abdehiklmnorstuvwyz"] + PIECES.split()
    numbers = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def byte_level_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A small byte-level BPE without `add_prefix_space`, as RoBERTa's (a class of its own) and ModernBERT's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    if family == "roberta":
        state = json.loads(tokenizer.to_str())["model"]
        return RobertaTokenizer(vocab=state["vocab"], merges=[tuple(pair) for pair in state["merges"]])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )


def save_encoder(folder: Path, family: str = "bert", **changes: object) -> Path:
    """Write a tiny encoder with random weights and its tokenizer, and return the folder."""
    tokenizer = byte_level_tokenizer(family) if family in ("roberta", "modernbert") else wordpiece_tokenizer()
    common = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = {
        "bert": lambda: BertConfig(**SIZES | common | changes),
        "distilbert": lambda: DistilBertConfig(
            dim=32, n_layers=3, n_heads=2, hidden_dim=48, max_position_embeddings=64, **common | changes
        ),
        "roberta": lambda: RobertaConfig(**SIZES | common | changes),
        "deberta-v2": lambda: DebertaV2Config(
            **SIZES | common | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]} | changes
        ),
        "modernbert": lambda: ModernBertConfig(
            **SIZES | common | {"cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2} | changes
        ),
    }[family]()
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family → folder of a tiny encoder with dropout."""
    return {family: save_encoder(tmp_path_factory.mktemp("encoder") / family, family) for family in FAMILIES}


@pytest.fixture(scope="session")
def encoder_folder(encoder_folders: dict[str, Path]) -> str:
    """Folder of a tiny BERT, as a config names it."""
    return str(encoder_folders["bert"])


@pytest.fixture(scope="session")
def still_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT without dropout, for tests that compare weights."""
    folder = tmp_path_factory.mktemp("encoder") / "still"
    return str(save_encoder(folder, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


def assistant_rows(num_rows: int = 48) -> datasets.Dataset:
    """Words with an intent and BIO slots on the same row; lengths differ."""
    cities, rows = {"paris", "rome", "oslo"}, []
    for index in range(num_rows):
        words = [*SENTENCES[index % len(SENTENCES)].split()[: 3 + index % 5], f"w{index % 7}"]
        rows.append(
            {
                "tokens": words,
                "slots": ["B-city" if word in cities else "B-when" if word in ("today", "tomorrow") else "O"
                          for word in words],
                "intent": {"play": "music", "book": "booking", "reserve": "booking"}.get(words[0], "weather"),
            }
        )  # fmt: skip
    return datasets.Dataset.from_list(rows)


def review_rows(num_rows: int = 40) -> datasets.Dataset:
    """Strings with a sentiment, a number and several labels."""
    rows = []
    for index in range(num_rows):
        good = index % 2 == 0
        text = f"{'lovely' if good else 'awful'} {SENTENCES[index % len(SENTENCES)]} {index}"
        topics = [name for name, use in (("food", index % 3 == 0), ("place", index % 4 == 0)) if use]
        rows.append({"text": text, "sentiment": "pos" if good else "neg", "stars": float(index % 5), "topics": topics})
    return datasets.Dataset.from_list(rows)


# Quick, exact and quiet.
TRAINING = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "precision": "fp32",
    "use_cpu": True,
    "disable_tqdm": True,
}


def two_source_config(encoder: str, output_dir: Path | str, **training: object) -> dict:
    """A config dict of two sources and four task types on the tiny data, quick to run."""
    return {
        "model": {"encoder": encoder},
        "sources": {
            "assistant": {"dataset": assistant_rows(), "text": "tokens"},
            "reviews": {"dataset": review_rows(), "text": "text"},
        },
        "tasks": {
            "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
            "slots": {"type": "token_classification", "source": "assistant", "label": "slots"},
            "stars": {"type": "regression", "source": "reviews", "label": "stars"},
            "topics": {"type": "multi_label_classification", "source": "reviews", "label": "topics"},
        },
        "training": TRAINING | {"output_dir": str(output_dir), "learning_rate": 1e-3} | training,
    }


def write_fake_data(config: RunConfig, folder: Path, num_rows: int = 24) -> None:
    """Write JSON lines in the shape that a config's sources and tasks name, below `folder`."""
    for name, source in config.sources.items():
        columns = [source.text] if isinstance(source.text, str) else source.text
        tasks = [task for task in config.tasks.values() if name in task.sources]
        most = max([1.0, *(float(task.options["score_range"][1]) for task in tasks if "score_range" in task.options)])
        words = any(task.type == "token_classification" for task in tasks)
        for split, path in source.data_files.items():
            rows = []
            for index in range(num_rows):
                text = f"{SENTENCES[index % len(SENTENCES)]} {split} {index}"  # no text in two splits
                row = {column: text.split() if words else text for column in columns}
                for task in tasks:
                    if task.label is not None:
                        row[task.label] = {
                            "token_classification": ["B-city" if word in ("paris", "rome", "oslo") else "O"
                                                     for word in text.split()],
                            "multi_label_classification": [f"label {index % 3}"],
                            "regression": float(index % 5),
                            "sentence_similarity": (index % 6) / 5 * most,
                            "multiple_choice": index % max(1, len(columns) - 1),
                            "extractive_qa": {"text": [text.split()[1]] * (index % 4 > 0),
                                              "answer_start": [text.index(" ") + 1] * (index % 4 > 0)},
                        }.get(task.type, f"label {index % 3}")  # fmt: skip
                rows.append(json.dumps(row))
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text("\n".join(rows) + "\n", encoding="utf-8")


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of, but that the splits of tiny data share their texts."""
    return [message for message in caplog.messages if "drop_leaked" not in message]
