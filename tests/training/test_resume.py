"""Runs that are killed and resumed end as if nothing had happened.

Notable: whole runs in forked processes (`kills.py`), so that SIGKILL is real. Evaluations give scripted scores, so that
the best checkpoint changes, is neither the first nor the last, and the save looked at most closely (`checkpoint-8`, at
the end of an epoch) replaces the best one and deletes its predecessor. Every step is logged, and logs are compared too.
"""

import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mtl_hf.training.checkpoints import fault, newest_checkpoint
from mtl_hf.training.locks import LOCK
from tests.conftest import assistant_rows, review_rows, save_encoder
from tests.training.kills import Attempt, Fate, attempt, differences

# 12 steps of 2 micro-batches in 3 epochs: checkpoints in the middle and at the end of each.
SCORES = {0: 0.05, 2: 0.1, 4: 0.5, 6: 0.3, 8: 0.7, 10: 0.6, 12: 0.4, 14: 0.2, 16: 0.1, 11: 0.45}
SAVE = "checkpoint-8"
POLICIES = ("round_robin", "proportional")


def also(*values: Any) -> Any:
    """A case for the slow suite only."""
    return pytest.param(*values, marks=pytest.mark.slow)


class Place:
    """Data, an encoder, and runs that nobody interrupts.

    Args:
        folder: Where all of it goes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.encoder = save_encoder(folder / "encoder")
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        self.still_encoder = save_encoder(folder / "still", **still)
        self.files: dict[str, dict[str, str]] = {}
        # 4 and 3 batches of 8: the last step of a proportional epoch has one micro-batch.
        for name, rows, num_train in [("assistant", assistant_rows(48), 32), ("reviews", review_rows(40), 24)]:
            self.files[name] = {}
            ends = {"train": num_train, "validation": num_train + 8, "test": num_train + 16}
            for first, (split, end) in zip((0, *ends.values()), ends.items(), strict=False):
                path = folder / f"{name}-{split}.jsonl"
                lines = [json.dumps(row) + "\n" for row in rows.select(range(first, end)).to_list()]
                path.write_text("".join(lines), encoding="utf-8")
                self.files[name][split] = str(path)
        self._whole: dict[str, tuple[Path, Attempt]] = {}
        self._number = 0

    def new_folder(self) -> Path:
        """An `output_dir` that nothing is in."""
        self._number += 1
        return self.folder / f"run{self._number}"

    def config(self, output_dir: Path | str, **training: Any) -> dict[str, Any]:
        """Two sources, four tasks, dropout, evaluations, early stopping that is never due."""
        return {
            "model": {"encoder": str(self.encoder)},
            "sources": {
                "assistant": {"path": "json", "data_files": self.files["assistant"], "text": "tokens"},
                "reviews": {"path": "json", "data_files": self.files["reviews"], "text": "text"},
            },
            "tasks": {
                "intent": {"type": "sequence_classification", "source": "assistant", "label": "intent"},
                "slots": {"type": "token_classification", "source": "assistant", "label": "slots"},
                "sentiment": {"type": "sequence_classification", "source": "reviews", "label": "sentiment"},
                "topics": {"type": "multi_label_classification", "source": "reviews", "label": "topics"},
            },
            "training": {
                "output_dir": str(output_dir),
                "num_train_epochs": 3,
                "per_device_train_batch_size": 8,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-3,
                "layerwise_lr_decay": 0.8,
                "precision": "fp32",
                "use_cpu": True,
                "disable_tqdm": True,
                "logging_steps": 1,
                "eval_strategy": "steps",
                "eval_steps": 2,
                "save_strategy": "steps",
                "save_steps": 2,
                "save_total_limit": 2,
                "load_best_model_at_end": True,
                "early_stopping_patience": 3,
            }
            | training,
        }

    def start(self, config: dict[str, Any], *, fate: Fate | None = None, **options: Any) -> Attempt:
        """Start a run, with the scripted scores."""
        return attempt(config, self.folder, fate=fate or Fate(scores=SCORES), **options)

    def whole(self, num_processes: int = 1, **training: Any) -> tuple[Path, Attempt]:
        """A run that nobody interrupted: its folder and what it did."""
        key = json.dumps([num_processes, training], sort_keys=True)
        if key not in self._whole:
            folder = self.new_folder()
            done = self.start(self.config(folder, **training), num_processes=num_processes)
            assert done.finished, done.log
            self._whole[key] = folder, done
        return self._whole[key]

    def resume(self, config: dict[str, Any], **options: Any) -> Attempt:
        """Resume a run to its end."""
        resumed = self.start(config, resume=True, **options)
        assert resumed.finished, resumed.log
        return resumed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("resume"))


@pytest.fixture
def tally(record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> dict[str, int]:
    """Counts `killed` and `equal` of a test, for the line at the end of the session (`conftest.py`)."""
    counts = dict.fromkeys(("killed", "equal", "seconds alone at most"), 0)  # plain, to go from one process to another
    record_property("kills", (request.node.originalname, counts))
    return counts


def fate(**what: Any) -> Fate:
    return Fate(scores=SCORES, **what)


def number_of(operations: list[tuple[str, str]], when: str, what: str, last: bool = False) -> int:
    numbers = [number for number, operation in enumerate(operations) if operation == (when, what)]
    assert numbers, f"no {what!r} in {when}: {[found for found in operations if found[0] == when]}"
    return numbers[-1 if last else 0]


def deletes(operation: tuple[str, str]) -> bool:
    return operation[1].startswith("remove ")


def names(folder: Path) -> list[str]:
    return sorted((path.name for path in folder.glob("checkpoint-*")), key=lambda name: int(name.rpartition("-")[2]))


def kill_at_operation(place: Place, number: int, tally: dict[str, int], **training: Any) -> list[str]:
    """Kill a run at a file operation, resume it, and say what is different at its end."""
    whole, done = place.whole(**training)
    config = place.config(place.new_folder(), **training)
    folder = Path(config["training"]["output_dir"])
    killed = place.start(config, fate=fate(operation=number))
    assert killed.killed, killed.log
    found, expected = killed.operations(), done.operations()[: number + 1]
    assert len(found) == len(expected), "it should die where it was told to"
    assert found[-1] == expected[-1] or deletes(expected[-1]), "only files are deleted in any order"
    tally["killed"] += 1
    resumed = place.start(config, resume=True)
    wrong = differences(whole, folder) if resumed.finished else [f"exit codes {resumed.exit_codes}: {resumed.log}"]
    tally["equal"] += not wrong
    shutil.rmtree(folder)
    return wrong


# ---- killed at a file operation ----


@pytest.mark.parametrize("policy", POLICIES)
def test_two_runs_that_nobody_interrupts_are_equal(policy, place):
    """Else nothing below would mean anything."""
    whole, done = place.whole(policy=policy)
    folder = place.new_folder()
    again = place.start(place.config(folder, policy=policy))
    assert differences(whole, folder) == []
    assert sorted(again.operations()) == sorted(done.operations())
    assert again.batches() == done.batches()
    assert names(whole) == ["checkpoint-8", "checkpoint-12"]
    state = json.loads((whole / "trainer_state.json").read_text(encoding="utf-8"))
    assert (state["global_step"], state["best_global_step"]) == (12, 8)
    steps = Counter(step for step, _ in done.batches())
    assert list(steps.values()) == ([2, 2, 2, 2] if policy == "round_robin" else [2, 2, 2, 1]) * 3


def test_every_file_operation_of_a_save_is_seen(place):
    whole, done = place.whole()
    operations = [what for when, what in done.operations() if when == SAVE]
    written = {str(path.relative_to(whole)) for path in (whole / SAVE).rglob("*")}
    assert {f"{SAVE}/{name}" for name in (
        "model.safetensors", "config.json", "tokenizer.json", "optimizer.pt", "scheduler.pt", "rng_state.pth",
        "trainer_state.json", "complete.json")} <= written  # fmt: skip
    moved = {what.removeprefix("rename ") for what in operations if what.startswith("rename ")}
    for name in written:
        assert name in moved or {f"open {name}", f"half of {name}"} <= set(operations), name
    deleted = [what for what in operations if what.startswith(("remove ", "rmdir "))]
    assert {f"{verb} .removed-checkpoint-4{name}" for verb, name in [
        ("remove", "/model.safetensors"), ("remove", "/optimizer.pt"), ("remove", "/complete.json"), ("rmdir", ""),
    ]} <= set(deleted)  # fmt: skip
    assert operations.index(deleted[0]) > max(
        index for index, what in enumerate(operations) if what.endswith("complete.json") and what not in deleted
    ), "nothing is deleted before the new one is whole"


CHOSEN = [
    (SAVE, f"open {SAVE}/model.safetensors", False),
    (SAVE, f"half of {SAVE}/optimizer.pt", False),
    (SAVE, f"half of {SAVE}/trainer_state.json", False),
    (SAVE, "remove .removed-checkpoint-4/model.safetensors", False),
    (SAVE, "end of .", False),
    ("end", "half of a draft of model.safetensors", False),
]


@pytest.mark.parametrize(("when", "what", "last"), CHOSEN, ids=[what for _, what, _ in CHOSEN])
def test_a_run_killed_at_a_file_operation_ends_the_same(when, what, last, place, tally):
    _, done = place.whole()
    assert kill_at_operation(place, number_of(done.operations(), when, what, last), tally) == []


def test_a_run_killed_before_its_checkpoint_is_declared_whole_ends_the_same(place, tally):
    _, done = place.whole()
    operations = done.operations()
    declared = [number for number, (when, what) in enumerate(operations) if when == SAVE and what.endswith(
        f"{SAVE}/complete.json")]  # fmt: skip
    assert kill_at_operation(place, declared[-1], tally) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_killed_at_every_file_operation_of_a_save_ends_the_same(policy, place, tally):
    """And at those of the beginning and of the end."""
    _, done = place.whole(policy=policy)
    wrong = {}
    for number, (when, what) in enumerate(done.operations()):
        if when in ((SAVE, "start", "end") if policy == "round_robin" else (SAVE,)):
            found = kill_at_operation(place, number, tally, policy=policy)
            if found:
                wrong[f"{number}: {what} in {when}"] = found
    assert tally["killed"] > 30
    assert wrong == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_resumed_run_killed_at_every_file_operation_of_the_save_that_was_cut_short_ends_the_same(place, tally):
    """That save begins with removing what the first kill left."""
    whole, done = place.whole()
    first = place.new_folder()
    number = number_of(done.operations(), SAVE, f"half of {SAVE}/trainer_state.json")
    assert place.start(place.config(first), fate=fate(operation=number)).killed

    def again(operation: int | None) -> tuple[Path, Attempt]:
        folder = place.new_folder()
        shutil.copytree(first, folder)
        return folder, place.start(place.config(folder), resume=True, fate=fate(operation=operation))

    _, finished = again(None)
    assert (SAVE, f"remove {SAVE}/optimizer.pt") in finished.operations()
    wrong = {}
    for number, (when, what) in enumerate(finished.operations()):
        if when == SAVE or (when == "start" and what.endswith("run.yaml")):
            folder, killed = again(number)
            assert killed.killed
            tally["killed"] += 1
            resumed = place.start(place.config(folder), resume=True)
            found = differences(whole, folder) if resumed.finished else [f"{resumed.exit_codes}: {resumed.log}"]
            tally["equal"] += not found
            if found:
                wrong[f"{number}: {what} in {when}"] = found
            shutil.rmtree(folder)
    assert tally["killed"] > 30
    assert wrong == {}


# ---- killed at some moment ----


def kill_at_moments(
    place: Place, number: int, seed: int, tally: dict[str, int], num_processes: int = 1, **training: Any
) -> dict[str, list[str]]:
    """Kill runs at random moments, some of them again when they are resumed; what is different at the end."""
    chance = random.Random(seed)
    whole, done = place.whole(num_processes, **training)
    wrong = {}
    for attempts in range(4 * number):
        if tally["killed"] >= number:
            break
        folder = place.new_folder()
        config = place.config(folder, **training)
        moments = [chance.uniform(0, done.seconds) for _ in range(chance.choice([1, 1, 2]))]
        killed = 0
        for resume, moment in enumerate(moments):
            ranks = chance.choice([[rank] for rank in range(num_processes)] + [list(range(num_processes))])
            died = place.start(
                config, resume=bool(resume), num_processes=num_processes, kill_after=moment, kill_ranks=ranks
            )
            killed += died.killed
            if num_processes > 1:
                tally["seconds alone at most"] = max(tally["seconds alone at most"], round(died.seconds_alone))
        resumed = place.start(config, resume=True, num_processes=num_processes)
        found = differences(whole, folder) if resumed.finished else [f"{resumed.exit_codes}: {resumed.log}"]
        if found:
            wrong[f"{attempts}: killed after {moments} of {done.seconds:.1f} s"] = found
        tally["killed"] += killed
        tally["equal"] += 0 if found else killed
        shutil.rmtree(folder)
    assert tally["killed"] >= number
    return wrong


def test_a_run_killed_at_some_moments_ends_the_same(place, tally):
    assert kill_at_moments(place, 2, 1, tally) == {}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_killed_at_many_moments_ends_the_same(policy, place, tally):
    assert kill_at_moments(place, 10, POLICIES.index(policy), tally, policy=policy) == {}


HALF = {"per_device_train_batch_size": 4}  # on two processes


@pytest.mark.parametrize("rank", [0, also(1)])
def test_a_run_on_two_processes_of_which_one_is_killed_ends_the_same(rank, place, tally):
    whole, _ = place.whole(2, **HALF)
    folder = place.new_folder()
    config = place.config(folder, **HALF)
    killed = place.start(config, num_processes=2, fate=fate(step=7, rank=rank))
    assert killed.exit_codes[rank] == -9
    assert killed.exit_codes[1 - rank] > 0, "the other one should give up by itself"
    tally["killed"] += 1
    resumed = place.resume(config, num_processes=2)
    assert resumed.batches()[0][0] == 6
    assert differences(whole, folder) == []
    tally["equal"] += 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_on_two_processes_killed_at_many_moments_ends_the_same(place, tally):
    assert kill_at_moments(place, 10, 3, tally, num_processes=2, **HALF) == {}


# ---- other settings of the training loop ----

VARIANTS: dict[str, dict[str, Any]] = {
    "all by epochs": {"eval_strategy": "epoch", "save_strategy": "epoch"},
    "evaluated by epochs, saved by steps": {"eval_strategy": "epoch", "load_best_model_at_end": False},
    "saved when best": {"save_strategy": "best", "save_total_limit": 1},
    "a number of steps": {"max_steps": 11},
    "the rate follows the score": {"lr_scheduler_type": "reduce_lr_on_plateau",
                                   "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}},
    "best of each task": {"keep_best_per_task": True, "save_total_limit": 1},
    "bf16": {"precision": "bf16"},
    "loader in a process": {"dataloader_num_workers": 1},
    "losses logged seldom": {"logging_steps": 5},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_with_other_settings_ends_the_same(variant, place, tally):
    whole, done = place.whole(**VARIANTS[variant])
    steps = sorted({step for step, _ in done.batches()})
    for step in steps[-7:]:  # each from 5 on, within epochs and between them
        folder = place.new_folder()
        config = place.config(folder, **VARIANTS[variant])
        assert place.start(config, fate=fate(step=step)).killed
        tally["killed"] += 1
        resumed = place.resume(config)
        assert resumed.batches()[0][0] > 0
        assert differences(whole, folder, losses="logging_steps" not in VARIANTS[variant]) == [], step
        tally["equal"] += 1


@pytest.mark.parametrize("when", ["step 7", "end"])
def test_the_best_of_the_checkpoints_is_found_though_a_step_without_one_was_better(when, place, tally):
    """Evaluated at every step, saved at every second one: 4 is better than what comes later, 5 had no checkpoint."""
    scores = {step: {4: 0.5, 5: 0.9}.get(step, 0.1) for step in range(1, 13)}
    settings = {"eval_steps": 1, "early_stopping_patience": None}
    whole, folder = place.new_folder(), place.new_folder()
    done = place.start(place.config(whole, **settings), fate=Fate(scores=scores))
    assert done.finished, done.log
    assert names(whole) == ["checkpoint-4", "checkpoint-12"]
    assert (whole / "model.safetensors").read_bytes() == (whole / "checkpoint-4" / "model.safetensors").read_bytes()
    end = number_of(done.operations(), "end", "half of config.json")
    fatal = Fate(scores=scores, operation=end) if when == "end" else Fate(scores=scores, step=7)
    assert place.start(place.config(folder, **settings), fate=fatal).killed
    tally["killed"] += 1
    place.resume(place.config(folder, **settings), fate=Fate(scores=scores))
    assert differences(whole, folder) == []
    tally["equal"] += 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_on_two_processes_killed_at_every_file_operation_of_the_second_one_ends_the_same(place, tally):
    whole, done = place.whole(2, **HALF)
    second = done.operations(1)
    numbers = [number for number, (when, _) in enumerate(second) if when == SAVE]
    assert f"half of {SAVE}/rng_state_1.pth" in [what for when, what in second if when == SAVE]
    for number in numbers:
        folder = place.new_folder()
        config = place.config(folder, **HALF)
        killed = place.start(config, num_processes=2, fate=fate(operation=number, rank=1))
        assert killed.exit_codes[1] == -9
        assert killed.exit_codes[0] > 0, "the other one should give up by itself"
        tally["killed"] += 1
        place.resume(config, num_processes=2)
        assert differences(whole, folder) == [], second[number]
        tally["equal"] += 1


# ---- another number of processes ----


@pytest.mark.parametrize(
    ("before", "after", "by_source"), [(1, 2, False), (2, 1, False), also(1, 2, True), also(2, 1, True)]
)
def test_a_run_goes_on_with_the_same_rows_on_another_number_of_processes(before, after, by_source, place):
    double = fate(double=True)

    def config(folder: Path, num_processes: int) -> dict[str, Any]:
        made = place.config(folder, **({} if by_source else {"per_device_train_batch_size": 8 // num_processes}))
        made["model"] = {"encoder": str(place.still_encoder), "dropout": 0.0}
        if by_source:
            for source in made["sources"].values():
                source["batch_size"] = 8
        return made

    whole = place.new_folder()
    done = place.start(config(whole, before), num_processes=before, fate=double)
    folder = place.new_folder()
    stopped = place.start(config(folder, before), num_processes=before, fate=fate(double=True, step=7))
    assert stopped.killed
    resumed = place.resume(config(folder, after), num_processes=after, fate=double)
    assert len(resumed.journals) == after
    assert resumed.batches() == [batch for batch in done.batches() if batch[0] >= 6]
    assert differences(whole, folder, tolerance=1e-9) == []


# ---- what else a person does ----


def test_resuming_what_never_began_begins(place):
    whole, _ = place.whole()
    folder = place.new_folder()
    begun = place.resume(place.config(folder))
    assert begun.batches()[0][0] == 0
    assert differences(whole, folder) == []
    assert "beginning" in begun.log


def test_resuming_a_finished_run_trains_no_more(place):
    whole, _ = place.whole()
    folder = place.new_folder()
    shutil.copytree(whole, folder)
    resumed = place.resume(place.config(folder))
    assert resumed.batches() == []
    assert differences(whole, folder) == []


EARLY = {"early_stopping_patience": 2, "num_train_epochs": 4}  # stops at 12, two evaluations after the best


@pytest.mark.parametrize("step", [9, 11])
def test_early_stopping_comes_when_it_would_have_come(step, place, tally):
    whole, done = place.whole(**EARLY)
    assert done.batches()[-1][0] == 11
    folder = place.new_folder()
    config = place.config(folder, **EARLY)
    assert place.start(config, fate=fate(step=step)).killed
    tally["killed"] += 1
    place.resume(config)
    assert differences(whole, folder) == []
    tally["equal"] += 1


def test_a_resumed_run_does_not_evaluate_its_start_again(place, tally):
    """That would count as one more evaluation without progress, and stop it early."""
    settings = EARLY | {"eval_on_start": True}
    whole, done = place.whole(**settings)
    assert done.batches()[-1][0] == 11
    folder = place.new_folder()
    config = place.config(folder, **settings)
    assert place.start(config, fate=fate(step=11)).killed
    tally["killed"] += 1
    place.resume(config)
    assert differences(whole, folder) == []
    tally["equal"] += 1


@pytest.mark.parametrize("what", ["killed", "finished"])
def test_a_run_that_has_stopped_early_takes_no_more_steps(what, place, tally):
    whole, done = place.whole(**EARLY)
    folder = place.new_folder()
    config = place.config(folder, **EARLY)
    number = number_of(done.operations(), "end", "half of model.safetensors") if what == "killed" else None
    assert place.start(config, fate=fate(operation=number)).killed == (what == "killed")
    tally["killed"] += what == "killed"
    resumed = place.resume(config)
    assert resumed.batches() == []
    assert differences(whole, folder) == []
    tally["equal"] += what == "killed"


@pytest.mark.parametrize(
    ("way", "when"),
    [
        ("copied", "end"), ("relative, from elsewhere", "end"), ("moved", "step 11"),
        also("moved", "end"), also("relative", "end"), also("copied", "step 11"), also("relative", "step 11"),
        also("relative, from elsewhere", "step 11"),
    ],
)  # fmt: skip
def test_the_folder_of_a_run_may_have_another_name(way, when, place, tally):
    """The best checkpoint is known to the state by its path; `copied` leaves one there that must not be used."""
    whole, done = place.whole()
    first, second = place.new_folder(), place.new_folder()
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    configs = [place.config(folder) for folder in (first, second)]
    if way.startswith("relative"):
        configs = [place.config(first.name)] * 2
        before = after = {"working_directory": place.folder}
        second = first
        if way.endswith("elsewhere"):
            elsewhere = place.new_folder()
            elsewhere.mkdir()
            second, after = elsewhere / first.name, {"working_directory": elsewhere}
    # At the end no save follows, with which the path would be known anew.
    end = number_of(done.operations(), "end", "half of config.json")
    assert place.start(configs[0], fate=fate(operation=end) if when == "end" else fate(step=11), **before).killed
    tally["killed"] += 1
    if way == "copied":
        shutil.copytree(first, second)
        shutil.copy(first / names(first)[-1] / "model.safetensors", first / "checkpoint-8")
    elif first != second:
        first.rename(second)
    resumed = place.resume(configs[1], **after)
    assert [step for step, _ in resumed.batches()] == ([] if when == "end" else [10, 10, 11, 11])
    assert differences(whole, second) == []
    state = json.loads((second / "trainer_state.json").read_text(encoding="utf-8"))
    best = Path(after.get("working_directory", place.folder), state["best_model_checkpoint"])
    assert best.samefile(second / "checkpoint-8")
    tally["equal"] += 1


# ---- what is broken or does not fit ----


@pytest.fixture(scope="module")
def stopped(place: Place) -> Path:
    """A run killed at step 11, with the checkpoints 8, which is the best, and 10."""
    folder = place.new_folder()
    assert place.start(place.config(folder), fate=fate(step=11)).killed
    assert names(folder) == ["checkpoint-8", "checkpoint-10"]
    return folder


def copy_of(stopped: Path, place: Place) -> Path:
    folder = place.new_folder()
    shutil.copytree(stopped, folder)
    return folder


def remove(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("model.safetensors", truncate), ("optimizer.pt", remove), ("trainer_state.json", truncate),
        also("model.safetensors", remove), also("optimizer.pt", truncate), also("trainer_state.json", remove),
        also("scheduler.pt", remove), also("scheduler.pt", truncate), also("rng_state.pth", remove),
        also("rng_state.pth", truncate), also("complete.json", remove), also("complete.json", truncate),
    ],
)  # fmt: skip
def test_a_checkpoint_with_a_missing_or_short_file_is_passed_over(name, harm, stopped, place):
    whole, _ = place.whole()
    folder = copy_of(stopped, place)
    harm(folder / "checkpoint-10" / name)
    resumed = place.resume(place.config(folder))
    assert "checkpoint-10" in resumed.log
    assert name in resumed.log
    assert resumed.batches()[0][0] == 8
    assert differences(whole, folder) == []


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"{}", b'{"files": 1}'])
def test_a_checkpoint_with_another_complete_json_is_passed_over(content, stopped, place):
    folder = copy_of(stopped, place)
    (folder / "checkpoint-10" / "complete.json").write_bytes(content)
    assert "complete.json" in str(fault(folder / "checkpoint-10"))
    assert newest_checkpoint(folder) == folder / "checkpoint-8"


def test_the_loss_of_the_best_checkpoint_is_said(stopped, place):
    folder = copy_of(stopped, place)
    truncate(folder / "checkpoint-8" / "model.safetensors")
    resumed = place.resume(place.config(folder))
    assert "checkpoint-8, the best checkpoint so far, is not available" in resumed.log
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_model_checkpoint"] is None


def test_without_any_whole_checkpoint_a_run_begins_again(stopped, place):
    whole, _ = place.whole()
    folder = copy_of(stopped, place)
    for checkpoint in names(folder):
        truncate(folder / checkpoint / "optimizer.pt")
    resumed = place.resume(place.config(folder))
    assert resumed.batches()[0][0] == 0
    assert differences(whole, folder) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": {"sentiment": None}}, ["sentiment"]),
        ({"training": {"per_device_train_batch_size": 4}}, ["batch", "4", "8"]),
        also({"tasks": {"sentiment": {"label": "stars", "type": "regression"}}}, ["sentiment"]),
        also({"tasks": {"intent": {"loss_weight": 2.0}}}, ["loss_weight", "2.0"]),
        also({"training": {"learning_rate": 0.01}}, ["learning_rate", "0.01", "0.001"]),
        also({"training": {"seed": 7}}, ["seed", "7", "42"]),
        also({"training": {"gradient_accumulation_steps": 1}}, ["gradient_accumulation_steps", "1", "2"]),
        also({"training": {"policy": "proportional"}}, ["ProportionalBatchSampler", "RoundRobinBatchSampler"]),
    ],
)
def test_other_settings_are_refused_with_the_difference(change, words, stopped, place):
    folder = copy_of(stopped, place)
    (folder / LOCK).unlink()  # of the run that was killed
    before = sorted((path, path.stat().st_mtime) for path in folder.rglob("*"))
    config = place.config(folder)
    config["training"] |= change.get("training", {})
    for name, task in change.get("tasks", {}).items():
        if task is None:
            del config["tasks"][name]
        else:
            config["tasks"][name] |= task
    refused = place.start(config, resume=True)
    assert refused.exit_codes == [1]
    assert refused.batches() == []
    message = refused.log.rpartition("ValueError: ")[2]
    assert message != refused.log, refused.log
    assert all(word in message for word in words), message
    assert before == sorted((path, path.stat().st_mtime) for path in folder.rglob("*")), "nothing may be touched"


@pytest.mark.parametrize("num_bytes", [100_000, 180_000], ids=["not for the weights", "for the weights only"])
def test_a_disk_that_fills_up_during_a_save_leaves_the_last_whole_checkpoint(num_bytes, place):
    whole, _ = place.whole()
    folder = place.new_folder()
    config = place.config(folder)
    full = place.start(config, fate=fate(full_disk=(SAVE, num_bytes)))
    assert full.exit_codes == [1], full.log
    message = full.log.rpartition("\nOSError: ")[2]
    assert f"{SAVE} cannot be saved (" in message, full.log
    assert "checkpoint-6 is complete: fix the problem and continue with --resume." in message
    weights, optimizer = ((whole / SAVE / name).stat().st_size for name in ("model.safetensors", "optimizer.pt"))
    assert 100_000 < weights < 180_000 < optimizer
    assert {"checkpoint-4", "checkpoint-6"} <= set(names(folder)), "nothing may be deleted for it"
    resumed = place.resume(config)
    assert resumed.batches()[0][0] == 6
    assert differences(whole, folder) == []


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_both_processes(place):
    whole, _ = place.whole(2, **HALF)
    folder = place.new_folder()
    config = place.config(folder, **HALF)
    full = place.start(config, num_processes=2, fate=fate(full_disk=(SAVE, 100_000)))
    assert full.exit_codes == [1, 1], full.log
    resumed = place.resume(config, num_processes=2)
    assert resumed.batches()[0][0] == 6
    assert differences(whole, folder) == []
