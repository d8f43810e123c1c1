"""Tests of `mtl_hf.tasks.masking` against a slow twin that masks token by token, and of what draws and carries it."""

import pickle
from typing import Any

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from mtl_hf.config import RunConfig, Source, Task
from mtl_hf.data.collator import Collator, EncodedRows
from mtl_hf.data.labels import build_tasks, check_tasks
from mtl_hf.data.rows import encode_rows, trainable_rows
from mtl_hf.data.schedule import Batch, ProportionalBatchSampler, RoundRobinBatchSampler
from mtl_hf.data.sources import load_sources
from mtl_hf.tasks.masking import BEGINS, INSIDE, Masking, mask_units, masking_of
from tests.conftest import SENTENCES, assistant_rows, byte_level_tokenizer, wordpiece_tokenizer

IGNORE = -100
MASK, VOCABULARY, DRAW = 4, 50, (13, 2, 1)
WORDPIECE = wordpiece_tokenizer()  # one for all: another one may have learned other pieces


def random_batch(num_rows: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and units of rows of different lengths, special tokens (ids below 5) at the ends and now and then inside."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, VOCABULARY, (num_rows, length)).astype(np.int32)
    units = np.full((num_rows, length), IGNORE)
    for row in range(num_rows):
        last = int(rng.integers(2, length))
        for place in range(1, last):
            begun = (units[row, :place] != IGNORE).any()
            units[row, place] = INSIDE if begun and rng.random() < 0.4 else BEGINS
            if rng.random() < 0.1 and place > 1:
                units[row, place] = IGNORE
        ids[row][units[row] == IGNORE] = rng.integers(0, 5)
    return ids, units


def slow_mask(ids: list[int], units: list[int], row: int, probability: float) -> tuple[list[int], list[int]]:
    """One row, in plain Python: its tokens' numbers are those of a generator seeded by (seed, epoch, lap, row)."""
    places = [place for place, unit in enumerate(units) if unit != IGNORE]
    numbers = np.random.default_rng([*DRAW, row]).random((len(places), 3)).tolist()
    groups: list[list[tuple[int, list[float]]]] = []
    for place, number in zip(places, numbers, strict=True):
        if units[place] == BEGINS:
            groups.append([])
        groups[-1].append((place, number))
    nearest = min((group[0][1][0] for group in groups), default=None)
    seen, labels = list(ids), [IGNORE] * len(ids)
    for group in groups:
        if group[0][1][0] >= probability and group[0][1][0] != nearest:
            continue
        for place, (_, fate, other) in group:
            labels[place] = ids[place]
            seen[place] = MASK if fate < 0.8 else int(other * VOCABULARY) if fate < 0.9 else ids[place]
    return seen, labels


@pytest.mark.parametrize("probability", [0.02, 0.15, 0.6])
def test_masks_are_those_of_a_slow_twin(probability: float) -> None:
    ids, units = random_batch(40, 17, seed=0)
    before = ids.copy()
    numbers = [int(number) for number in np.random.default_rng(5).permutation(1000)[:40]]
    seen, labels = Masking(probability, MASK, VOCABULARY)(ids, units, DRAW, numbers)
    assert np.array_equal(ids, before), "what it was given stays"
    for row, number in enumerate(numbers):
        assert (seen[row].tolist(), labels[row].tolist()) == slow_mask(
            ids[row].tolist(), units[row].tolist(), number, probability
        )
    assert (labels != IGNORE).sum(1).min() >= 1 or not (units != IGNORE).any(1).all()


def test_masks_of_a_row_do_not_depend_on_its_batch() -> None:
    ids, units = random_batch(12, 20, seed=1)
    masking = Masking(0.15, MASK, VOCABULARY)
    seen, labels = masking(ids, units, DRAW, list(range(12)))
    for part in (
        slice(0, None, 2),
        slice(1, None, 2),
        slice(7, 3, -1),
    ):  # as two processes, and micro-batches have them
        own_seen, own_labels = masking(ids[part], units[part], DRAW, list(range(12))[part])
        assert np.array_equal(own_seen, seen[part])
        assert np.array_equal(own_labels, labels[part])
    short = int((units[3] != IGNORE).nonzero()[0][-1]) + 2  # less padding
    own_seen, own_labels = masking(ids[3:4, :short], units[3:4, :short], DRAW, [3])
    assert np.array_equal(own_seen[0], seen[3, :short])
    assert np.array_equal(own_labels[0], labels[3, :short])


@pytest.mark.parametrize("draw", [(14, 2, 1), (13, 3, 1), (13, 2, 0)], ids=["seed", "epoch", "lap"])
def test_a_row_that_is_seen_again_has_other_masks(draw: tuple[int, int, int]) -> None:
    ids, units = random_batch(60, 40, seed=2)
    masking = Masking(0.15, MASK, VOCABULARY)
    first, again = (masking(ids, units, one, list(range(60)))[1] for one in (DRAW, draw))
    long = (units != IGNORE).sum(1) > 15  # in short ones chance may choose the same
    assert (first != again)[long].any(1).mean() > 0.9


def test_shares_are_those_of_bert() -> None:
    ids = np.tile(np.arange(5, 45, dtype=np.int32), (4000, 3))
    seen, labels = Masking(0.15, MASK, 100)(ids, np.zeros(ids.shape, dtype=int), DRAW, range(len(ids)))
    hidden = labels != IGNORE
    assert np.array_equal(labels[hidden], ids[hidden])
    assert np.array_equal(seen[~hidden], ids[~hidden])
    assert hidden.mean() == pytest.approx(0.15, abs=0.002)  # of 480,000 tokens: four deviations
    became, was = seen[hidden], ids[hidden]
    assert (became == MASK).mean() == pytest.approx(0.8 + 0.1 / 100, abs=0.006)
    assert (became == was).mean() == pytest.approx(0.1 + 0.1 / 100, abs=0.006)
    others = became[(became != MASK) & (became != was)]
    assert len(others) / len(was) == pytest.approx(0.1 * 0.98, abs=0.006)
    counts = np.bincount(others, minlength=100)  # of a uniform choice; those in the texts can stay as they are, too
    assert counts.max() < 1.5 * counts[counts > 0].mean()
    assert (counts > 0).sum() >= 99


def test_whole_words_are_masked_whole() -> None:
    ids, units = random_batch(50, 30, seed=3)
    _, labels = Masking(0.15, MASK, VOCABULARY)(ids, units, DRAW, range(50))
    inside = 0
    for row in range(50):
        word: bool | None = None
        for place in np.flatnonzero(units[row] != IGNORE):
            hidden = labels[row, place] != IGNORE
            if units[row, place] == INSIDE:
                assert hidden == word
                inside += hidden
            word = hidden
    assert inside > 20


def test_units_of_a_row() -> None:
    ids, words = [2, 9, 8, 7, 3, 6, 1, 5, 3], [None, 0, 0, 1, None, 1, 1, 1, None]
    assert mask_units(ids, words, frozenset({2, 3})) == [IGNORE, 0, 1, 0, IGNORE, 0, 1, 1, IGNORE]
    assert mask_units(ids, words, frozenset({1, 2, 3})) == [IGNORE, 0, 1, 0, IGNORE, 0, IGNORE, 1, IGNORE]
    assert mask_units(ids, None, frozenset({2, 3})) == [IGNORE, 0, 0, 0, IGNORE, 0, 0, 0, IGNORE]


# From texts to batches


def masked_config(rows: Any, text: Any = "text", **task: Any) -> RunConfig:
    """One source, one `masked_lm` task."""
    return RunConfig.load(
        {
            "model": {"encoder": "unused"},
            "sources": {"only": {"dataset": {"train": rows, "validation": rows}, "text": text}},
            "tasks": {"mlm": {"type": "masked_lm", "source": "only"} | task},
        }
    )


def encoded(
    rows: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, text: Any = "text", split: str = "train", **task: Any
) -> datasets.Dataset:
    config = masked_config(rows, text, **task)
    sources = load_sources(config)
    return encode_rows(sources["only"], split, build_tasks(config, sources), tokenizer, 32)


TEXTS = datasets.Dataset.from_dict({"text": ["the riverbank tomorrow", "play xylophone jazz", "in rome"]})


@pytest.mark.parametrize("tokenizer", [WORDPIECE, byte_level_tokenizer("roberta")], ids=["wp", "bpe"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_encoded_rows_say_where_masks_can_be(tokenizer: PreTrainedTokenizerBase, split: str) -> None:
    tokens = encoded(TEXTS, tokenizer, split=split)
    words = encoded(TEXTS, tokenizer, split=split, whole_word_mask=True)
    for row, text in enumerate(TEXTS["text"]):
        ids, units = tokens[row]["input_ids"], tokens[row]["label:mlm"]
        special = [token in tokenizer.all_special_ids for token in ids]
        assert [unit == IGNORE for unit in units] == special
        assert set(units) == {IGNORE, BEGINS}
        units = words[row]["label:mlm"]
        assert [unit == IGNORE for unit in units] == special
        spoken = tokenizer.convert_ids_to_tokens([i for i, s in zip(ids, special, strict=True) if not s])
        begins = [unit for unit in units if unit != IGNORE]
        if tokenizer.all_special_tokens[0].startswith("["):
            assert begins == [int(token.startswith("##")) for token in spoken]
        else:
            assert begins == [int(not token.startswith("Ġ") and place > 0) for place, token in enumerate(spoken)]
        if "[UNK]" not in tokenizer.convert_ids_to_tokens(ids):
            assert begins.count(BEGINS) == len(text.split())


def test_words_of_a_list_are_whole_words() -> None:
    rows = datasets.Dataset.from_dict({"tokens": [["the", "river-bank"], ["in", "rome"]]})
    units = encoded(rows, WORDPIECE, text="tokens", whole_word_mask=True)["label:mlm"]
    assert [row.count(BEGINS) for row in units] == [2, 2]


def test_a_row_without_a_maskable_token_does_not_train() -> None:
    rows = datasets.Dataset.from_dict({"text": ["play jazz", "漢字", "in rome"]})
    config = masked_config(rows)
    sources = load_sources(config)
    tasks = build_tasks(config, sources)
    every = encode_rows(sources["only"], "train", tasks, WORDPIECE, 32)
    assert set(every[1]["label:mlm"]) == {IGNORE}
    kept = trainable_rows("only", every, tasks)
    assert kept["input_ids"] == [every[0]["input_ids"], every[2]["input_ids"]]


def collated(indices: list[int], num_workers: int = 0, **options: Any) -> dict[str, Any]:
    """A batch of rows of sentences as a loader gives it."""
    rows = encoded(datasets.Dataset.from_dict({"text": SENTENCES}), WORDPIECE)
    collator = Collator({"only": {"mlm": "masked_lm"}}, 0, {"only": Masking(0.15, MASK, VOCABULARY)})
    loader = DataLoader(
        EncodedRows({"only": rows}, **options), batch_sampler=[indices], collate_fn=collator, num_workers=num_workers
    )
    return next(iter(loader))


def test_a_batch_in_training_is_masked_by_its_draw() -> None:
    rows = encoded(datasets.Dataset.from_dict({"text": SENTENCES}), WORDPIECE)
    batch = collated(Batch([5, 0, 3], DRAW))
    for place, row in enumerate([5, 0, 3]):
        ids = rows[row]["input_ids"]
        seen, labels = slow_mask(ids, rows[row]["label:mlm"], row, 0.15)
        assert batch["input_ids"][place, : len(ids)].tolist() == seen
        assert batch["labels"]["mlm"][place, : len(ids)].tolist() == labels
        assert set(batch["labels"]["mlm"][place, len(ids) :].tolist()) <= {IGNORE}
    assert batch["num_items"] == {"mlm": int((batch["labels"]["mlm"] != IGNORE).sum())}
    assert batch["num_labelled_rows"] == 3


def test_workers_see_the_draw() -> None:
    here, there = collated(Batch([1, 6], DRAW)), collated(Batch([1, 6], DRAW), num_workers=1)
    assert here["input_ids"].equal(there["input_ids"])
    assert here["labels"]["mlm"].equal(there["labels"]["mlm"])


def test_masks_of_evaluation_are_fixed_by_the_rows_own_numbers() -> None:
    rows = encoded(datasets.Dataset.from_dict({"text": SENTENCES}), WORDPIECE)
    collator = Collator({"only": {"mlm": "masked_lm"}}, 0, {"only": Masking(0.15, MASK, VOCABULARY)})
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
    plain = collator(EncodedRows({"only": rows}, with_labels=False).__getitems__([7, 3]))
    sorted_rows = EncodedRows({"only": rows.select(order)}, with_labels=False, numbers=order)
    moved = collator(sorted_rows.__getitems__([2, 0]))
    assert set(plain) == {"input_ids", "attention_mask", "token_type_ids", "heads", "labels", "rows"}
    assert plain["heads"] == ("mlm",)
    assert plain["input_ids"].equal(moved["input_ids"])
    assert plain["labels"]["mlm"].equal(moved["labels"]["mlm"])


def test_a_plain_list_of_rows_cannot_be_masked_in_training() -> None:
    with pytest.raises(ValueError, match=r"should yield `mtl_hf\.data\.schedule\.Batch` instead of a list"):
        collated([0, 1])


# The schedule


@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_carry_seed_epoch_and_lap(world_size: int) -> None:
    lengths = {"long": [5] * 20, "short": [5] * 6}
    sampler = RoundRobinBatchSampler(lengths, {"long": 4, "short": 4}, seed=7, world_size=world_size)
    sampler.set_epoch(3)
    found = list(sampler)
    assert all(batch.draw[:2] == (7, 3) for batch in found)
    assert [batch.draw[2] for batch in found[0::2]] == [0, 0, 0, 0, 0]
    assert [batch.draw[2] for batch in found[1::2]] == [0, 0, 1, 1, 2]
    seen = [(row, batch.draw) for batch in found for row in batch]
    assert len(set(seen)) == len(seen), "no row is drawn for twice alike"
    proportional = ProportionalBatchSampler(lengths, {"long": 4, "short": 4}, seed=7, world_size=world_size)
    assert {batch.draw for batch in proportional} == {(7, 0, 0)}


def test_a_batch_survives_a_pickle() -> None:
    batch = pickle.loads(pickle.dumps(Batch([3, 1], DRAW)))
    assert (list(batch), batch.draw) == ([3, 1], DRAW)


# What is refused


def test_tokenizer_without_mask_token_is_refused() -> None:
    tokenizer = wordpiece_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ValueError, match=r"`tasks\.mlm` masks tokens, but the tokenizer of .* has no mask token"):
        encoded(TEXTS, tokenizer)


def test_slow_tokenizer_does_not_know_whole_words() -> None:
    class Slow:
        is_fast, mask_token_id, name_or_path = False, 4, "slow"

        def __len__(self) -> int:
            return 9

    config = masked_config(assistant_rows(8), "tokens", whole_word_mask=True)
    (task,) = build_tasks(config, load_sources(config)).values()
    with pytest.raises(ValueError, match=r"`tasks\.mlm\.whole_word_mask` needs a tokenizer .*, which Slow does not"):
        masking_of(task, Slow())  # type: ignore[arg-type]
    task.config.options["whole_word_mask"] = None
    assert masking_of(task, Slow()) == Masking(0.15, 4, 9)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"label": "text"}, r"`tasks\.mlm\.label` is 'text', but masked_lm needs no label column"),
        ({"mlm_probability": 0}, r"`tasks\.mlm\.mlm_probability` is 0\.0; it should be a share of the tokens"),
        ({"mlm_probability": 1.0}, r"`tasks\.mlm\.mlm_probability` is 1\.0; it should be a share of the tokens"),
        ({"mlm_probability": "much"}, r"`tasks\.mlm\.mlm_probability` is 'much'; it should be a number"),
        ({"pooling": "cls"}, r"`tasks\.mlm\.pooling` is 'cls', but masked_lm does not support it"),
        ({"dropout": 0.1}, r"`tasks\.mlm\.dropout` is 0\.1, but masked_lm does not support it"),
        ({"labels": ["a", "b"]}, r"`tasks\.mlm\.labels` is \['a', 'b'\], but masked_lm does not support it"),
        ({"metrics": ["f1"]}, r"`tasks\.mlm\.metrics`: 'f1' cannot score masked_lm; .* perplexity"),
        ({"type": "regression", "label": "text", "whole_word_mask": True},
         r"`tasks\.mlm\.whole_word_mask` is an option of masked_lm, not of regression"),
        ({"type": "regression", "label": "text", "mlm_probability": 0.2},
         r"`tasks\.mlm\.mlm_probability` is an option of masked_lm, not of regression"),
    ],
)  # fmt: skip
def test_wrong_tasks_are_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tasks(masked_config(TEXTS, **task))


def test_no_other_task_reads_masked_texts() -> None:
    config = masked_config(TEXTS)
    config.tasks["other"] = Task(type="regression", source="only", label="text")
    with pytest.raises(
        ValueError, match=r"`tasks\.mlm` changes the inputs of the encoder, so it cannot share its source with other"
    ):
        check_tasks(config)


def test_sources_may_differ_in_form() -> None:
    config = masked_config(TEXTS)
    config.sources["words"] = Source(
        dataset={"train": assistant_rows(8), "validation": assistant_rows(8)}, text="tokens"
    )
    config.tasks["mlm"].source = ["only", "words"]
    sources = load_sources(config)
    tasks = build_tasks(config, sources)
    assert tasks["mlm"].form == "words"  # so that the tokenizer can read lists of words
    for name, rows in (("only", TEXTS["text"]), ("words", [" ".join(row) for row in assistant_rows(8)["tokens"]])):
        found = encode_rows(sources[name], "train", tasks, WORDPIECE, 32)
        assert list(found["input_ids"]) == WORDPIECE(list(rows))["input_ids"]
