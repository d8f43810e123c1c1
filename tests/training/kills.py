"""Whole runs in forked processes that die: at a file operation, at a step, at a moment, one of two processes or both.

Notable: a forked child has everything imported, so a run takes a second or two. What it does is written to a journal
with unbuffered writes, which outlive SIGKILL. File operations are seen by an audit hook; writers in C++ and Rust, which
it does not see, are wrapped. A file that is written counts twice: before it is opened, and when half of it is there
(the whole file cut to half, then SIGKILL). "After it" is before the operation that follows.
"""

import functools
import gc
import json
import logging
import multiprocessing
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import safetensors.torch
import torch
import transformers.tokenization_utils_tokenizers
from safetensors.torch import load_file

from mtl_hf import run as run_module
from mtl_hf.data.collator import EncodedRows
from mtl_hf.training.trainer import MultiTaskTrainer

FORK = multiprocessing.get_context("fork")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Audit events of one path and the position of its directory descriptor.
CHANGES = {"os.mkdir": 2, "os.remove": 1, "os.rmdir": 1, "os.truncate": None, "os.chmod": 2, "os.symlink": 2}
ALONE_SECONDS = 90  # for a process to notice that the other one is gone: an instant, with room for a busy machine
WAITING_SECONDS = 5  # until a process whose partner never came is ended, as launchers do


@dataclass(frozen=True)
class Fate:
    """What happens to a run besides what its config says.

    Attributes:
        operation: Number of the file operation at which the process kills itself.
        step: After so many optimiser steps it kills itself.
        rank: The process that does so.
        full_disk: A save (`checkpoint-6`) from whose beginning no file may grow beyond so many bytes.
        double: Train in float64.
        scores: Step → score that an evaluation there gives instead of the real one.
    """

    operation: int | None = None
    step: int | None = None
    rank: int = 0
    full_disk: tuple[str, int] | None = None
    double: bool = False
    scores: Mapping[int, float] | None = None


@dataclass(frozen=True)
class Attempt:
    """What became of one start of a run; lists hold an item a process.

    Attributes:
        exit_codes: Of the processes; the negative number of a signal.
        journals: What each wrote down: `operation`, `train` and `rows` entries.
        logs: What each had to say.
        seconds: From the start to the end of the last one.
        seconds_alone: The longest that a process went on after another one was gone.
    """

    exit_codes: list[int]
    journals: list[list[dict[str, Any]]]
    logs: list[str]
    seconds: float
    seconds_alone: float = 0.0

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return set(self.exit_codes) == {0}

    @property
    def killed(self) -> bool:
        """Whether a process was killed."""
        return -signal.SIGKILL in self.exit_codes

    @property
    def log(self) -> str:
        """All that was said."""
        return "\n".join(self.logs)

    def operations(self, rank: int = 0) -> list[tuple[str, str]]:
        """(When, what) of every file operation: `start`, the name of a checkpoint, `training` or `end`."""
        return [(entry["when"], entry["what"]) for entry in self.journals[rank] if entry["event"] == "operation"]

    def batches(self) -> list[tuple[int, list[int]]]:
        """(Steps before it, sorted row numbers over all processes) of every micro-batch that was trained."""
        ranks = [[entry for entry in journal if entry["event"] == "rows"] for journal in self.journals]
        return [
            (entries[0]["step"], sorted(row for entry in entries for row in entry["rows"]))
            for entries in zip(*ranks, strict=True)
        ]


def attempt(
    config: Mapping[str, Any],
    folder: Path,
    *,
    resume: bool = False,
    num_processes: int = 1,
    kill_after: float | None = None,
    kill_ranks: Sequence[int] = (0,),
    working_directory: Path | None = None,
    fate: Fate | None = None,
) -> Attempt:
    """Start `mtl_hf.train(config)` in processes of its own and wait for what becomes of it.

    Args:
        config: As `mtl_hf.train` takes it.
        folder: Where journals, logs and the cache of encoded rows go; runs that share it share the cache.
        resume: Whether to resume.
        num_processes: Processes over gloo.
        kill_after: Seconds until SIGKILL.
        kill_ranks: Those that get it.
        working_directory: Of the processes.
        fate: What else happens to it.

    Raises:
        AssertionError: A process that went on training after another one was gone.
    """
    notes = folder / "attempts" / str(len(list((folder / "attempts").glob("*"))))
    notes.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(num_processes):
        launch = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "MASTER_ADDR": "127.0.0.1",
                  "MASTER_PORT": port}  # fmt: skip
        environment = {key: str(value) for key, value in launch.items()} if num_processes > 1 else {}
        arguments = (config, notes, rank, resume, environment, working_directory, fate or Fate())
        processes.append(FORK.Process(target=_child, args=arguments))
    started = time.monotonic()
    for process in processes:
        process.start()
    kills = dict.fromkeys(kill_ranks, started + kill_after) if kill_after is not None else {}
    ended: dict[int, float] = {}
    left_by_itself = True
    while len(ended) < num_processes:
        time.sleep(0.005)
        now = time.monotonic()
        for rank, process in enumerate(processes):
            if rank in ended:
                continue
            if not process.is_alive():
                ended[rank] = now
            elif rank in kills and now >= kills[rank]:
                process.kill()
                del kills[rank]
        if ended and len(ended) < num_processes:
            # Before they have met, one waits for the other for as long as the launcher lets it.
            met = all(_read_journal(notes / f"rank{rank}.journal") for rank in range(num_processes))
            if now - min(ended.values()) > (ALONE_SECONDS if met else WAITING_SECONDS):
                left_by_itself = not met
                for process in processes:
                    process.kill()
    for process in processes:
        process.join()
    codes = [int(process.exitcode or 0) for process in processes]
    for process in processes:
        process.close()
    journals = [_read_journal(notes / f"rank{rank}.journal") for rank in range(num_processes)]
    logs = [(notes / f"rank{rank}.log").read_text(encoding="utf-8", errors="replace") if
            (notes / f"rank{rank}.log").exists() else "" for rank in range(num_processes)]  # fmt: skip
    if any("address already in use" in log.lower() for log in logs):  # somebody else was quicker with that port
        return attempt(config, folder, resume=resume, num_processes=num_processes, kill_after=kill_after,
                       kill_ranks=kill_ranks, working_directory=working_directory, fate=fate)  # fmt: skip
    assert left_by_itself, f"a process went on alone for {ALONE_SECONDS} s:\n" + "\n".join(logs)
    alone = max(ended.values()) - min(ended.values()) if all(journals) else 0.0
    return Attempt(codes, journals, logs, max(ended.values()) - started, alone)


def _read_journal(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


# ---- in the child ----


def _child(
    config: Mapping[str, Any],
    notes: Path,
    rank: int,
    resume: bool,
    environment: Mapping[str, str],
    working_directory: Path | None,
    fate: Fate,
) -> None:
    gc.freeze()  # what came with the fork is not gone through at every collection
    log = os.open(notes / f"rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(log, "w", buffering=1, encoding="utf-8")
    for name in ("mtl_hf", "transformers"):
        logging.getLogger(name).addHandler(logging.StreamHandler(sys.stderr))
    logging.getLogger("mtl_hf").setLevel(logging.INFO)
    os.environ.update({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **environment})
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = str(notes.parents[1] / "cache")  # type: ignore[assignment]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if working_directory:
        os.chdir(working_directory)
    journal = os.open(notes / f"rank{rank}.journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(**entry: Any) -> None:
        os.write(journal, (json.dumps(entry) + "\n").encode())

    if fate.rank != rank:
        fate = Fate(full_disk=fate.full_disk, double=fate.double, scores=fate.scores)
    operations = FileOperations(Path(config["training"]["output_dir"]).absolute(), note, fate.operation)
    operations.watch()
    _prepare(note, operations, fate)
    run_module.train(config, **({"resume": True} if resume else {}))


def die() -> None:
    """As when the machine runs out of memory or its owner out of patience."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


class FileOperations:
    """Notes and counts every change below a folder; dies at one of them.

    Args:
        folder: Absolute.
        note: Writes an entry into the journal.
        fatal: Number of the operation before which the process dies.
    """

    def __init__(self, folder: Path, note: Callable[..., None], fatal: int | None) -> None:
        self.folder, self.note, self.fatal = os.path.realpath(folder), note, fatal
        self.when = "start"
        self.number = 0
        self._opened: str | None = None  # for writing by Python: what is in it by the next operation counts as written
        self._dying = False

    def watch(self) -> None:
        """See everything from now on, for as long as the process lives."""
        sys.addaudithook(self._audit)
        self._wrap(torch, "save", lambda obj, f, *args, **kwargs: f)
        self._wrap(safetensors.torch, "serialize_file", lambda tensors, filename, *args, **kwargs: filename)
        self._wrap(
            transformers.tokenization_utils_tokenizers.TokenizersBackend,
            "_save_pretrained",
            lambda tokenizer, save_directory, *args, **kwargs: Path(save_directory, "tokenizer.json"),
        )

    def count(self, what: str, path: str, before_death: Callable[[], None] | None = None) -> None:
        """An operation is about to happen to a path, or something that `before_death` makes up is half done."""
        if self._opened and before_death is None:
            opened, self._opened = self._opened, None
            if os.path.exists(opened):  # some are only opened to see whether that works
                self.count("half of", opened, functools.partial(_halve, opened))
        self.note(event="operation", when=self.when, what=f"{what} {os.path.relpath(path, self.folder)}")
        if self.number == self.fatal:
            self._dying = True
            if before_death:
                before_death()
            die()
        self.number += 1

    def enter(self, when: str) -> None:
        """Another part of the run begins."""
        self.count("end of", self.folder)
        self.when = when

    def _inside(self, path: Any, directory: int = -1) -> str | None:
        """The absolute path of what lies in the folder."""
        if isinstance(path, int) or path is None:
            return None
        path = os.fsdecode(path)
        if not os.path.isabs(path):
            path = os.path.join(os.readlink(f"/proc/self/fd/{directory}") if directory >= 0 else os.getcwd(), path)
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        return path if path == self.folder or path.startswith(self.folder + os.sep) else None

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._dying or (event != "open" and not event.startswith("os.")):
            return
        if event == "open":
            path, _, flags = arguments
            if flags & WRITES and (inside := self._inside(path)):
                self.count("open", inside)
                self._opened = inside
        elif event in ("os.rename", "os.link"):
            source, target, source_directory, target_directory = arguments
            if inside := self._inside(target, target_directory) or self._inside(source, source_directory):
                self.count(event.removeprefix("os."), inside)
        elif event in CHANGES:
            position = CHANGES[event]
            if inside := self._inside(arguments[0], -1 if position is None else arguments[position]):
                self.count(event.removeprefix("os."), inside)

    def _wrap(self, owner: Any, name: str, target: Callable[..., Any]) -> None:
        """Count a writer that the audit hook does not see."""
        write = getattr(owner, name)

        @functools.wraps(write)
        def counted(*args: Any, **kwargs: Any) -> Any:
            path = target(*args, **kwargs)
            inside = self._inside(path) if isinstance(path, str | os.PathLike) else None
            if not inside:
                return write(*args, **kwargs)
            self.count("open", inside)
            before = Path(inside).read_bytes() if os.path.exists(inside) else None
            result = write(*args, **kwargs)
            self.count("half of", inside, functools.partial(_halve, inside))
            if owner is safetensors.torch:
                self.count("half of a draft of", inside, functools.partial(_halve_draft, inside, before))
            return result

        setattr(owner, name, counted)


def _halve(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)


def _halve_draft(path: str, before: bytes | None) -> None:
    """As safetensors is found when killed: it writes into a file of this form of name, and renames that at its end."""
    draft = Path(path).with_name(".tmpAbC123")
    os.rename(path, draft)
    _halve(str(draft))
    if before is not None:
        Path(path).write_bytes(before)


def _prepare(note: Callable[..., None], operations: FileOperations, fate: Fate) -> None:
    """Let a trainer of this process write its journal and meet its fate."""
    train, save, compute_loss, score = (
        getattr(MultiTaskTrainer, name) for name in ("train", "_save_checkpoint", "compute_loss", "score")
    )
    get_items, build_model = EncodedRows.__getitems__, run_module.build_model
    ahead: list[list[int]] = []  # the loader reads a batch or more before it is trained

    def watched_train(self: MultiTaskTrainer, *args: Any, **kwargs: Any) -> Any:
        note(event="train")
        operations.enter("training")
        result = train(self, *args, **kwargs)
        operations.enter("end")
        return result

    def watched_save(self: MultiTaskTrainer, *args: Any, **kwargs: Any) -> None:
        name = f"checkpoint-{self.state.global_step}"
        operations.enter(name)
        if fate.full_disk and fate.full_disk[0] == name:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fate.full_disk[1], resource.RLIM_INFINITY))
        save(self, *args, **kwargs)
        operations.enter("training")

    def watched_items(self: EncodedRows, indices: Sequence[int]) -> Any:
        if self.with_labels:
            ahead.append([int(index) for index in indices])
        return get_items(self, indices)

    def watched_loss(self: MultiTaskTrainer, *args: Any, **kwargs: Any) -> Any:
        if fate.step == self.state.global_step:
            die()
        note(
            event="rows", step=self.state.global_step, rows=ahead.pop(0) if ahead else []
        )  # none of those read in a worker
        return compute_loss(self, *args, **kwargs)

    def scripted(self: MultiTaskTrainer, *args: Any, **kwargs: Any) -> Any:
        result = score(self, *args, **kwargs)
        if fate.scores and not kwargs.get("intervals"):
            result["score"] = fate.scores[self.state.global_step]
        return result

    def double(*args: Any, **kwargs: Any) -> Any:
        return build_model(*args, **kwargs).double()

    MultiTaskTrainer.train, MultiTaskTrainer._save_checkpoint = watched_train, watched_save  # type: ignore[method-assign]
    MultiTaskTrainer.compute_loss, MultiTaskTrainer.score = watched_loss, scripted  # type: ignore[method-assign]
    EncodedRows.__getitems__ = watched_items  # type: ignore[method-assign]
    if fate.double:
        run_module.build_model = double


# ---- afterwards ----


def differences(expected: Path, found: Path, *, tolerance: float | None = None, losses: bool = True) -> list[str]:
    """What two finished runs' folders do not have in common, apart from times and paths; nothing, if all is equal.

    Args:
        expected: Of the run that nobody interrupted.
        found: Of the other one.
        tolerance: For the weights of the model, instead of equality of every file.
        losses: Whether the log of training counts, too; its lines begin anew where a run was resumed.
    """
    listed = [sorted(str(path.relative_to(root)) for path in root.rglob("*")) for root in (expected, found)]
    wrong = []
    if tolerance is None and listed[0] != listed[1]:
        wrong.append(f"files: {sorted(set(listed[0]) - set(listed[1]))} missing,"
                     f" {sorted(set(listed[1]) - set(listed[0]))} too many")  # fmt: skip
    for name in sorted(set(listed[0]) & set(listed[1])):
        left, right = expected / name, found / name
        if left.is_dir() or left.name in IGNORED:
            continue
        if left.suffix == ".safetensors":
            wrong += _differing_tensors(name, load_file(left), load_file(right), tolerance)
        elif tolerance is not None and left.name != "trainer_state.json":
            continue
        elif left.suffix in (".pt", ".pth"):
            values = [torch.load(path, weights_only=False) for path in (left, right)]
            wrong += [] if _same(*values) else [f"{name} differs"]
        elif left.name == "trainer_state.json":
            states = [_comparable_state(path, tolerance, losses) for path in (left, right)]
            wrong += [f"{name}: {key} is {states[1].get(key)!r}, was {value!r}" for key, value in states[0].items()
                      if states[1].get(key) != value]  # fmt: skip
        elif left.name == "README.md":
            cards = [path.read_text(encoding="utf-8").replace(root.name, "run") for path, root in
                     [(left, expected), (right, found)]]  # fmt: skip
            cards = [re.sub(r"[\d,]+ s\b(, counted from step .* resumed)?", "some s", card) for card in cards]
            wrong += [] if cards[0] == cards[1] else [f"{name} differs"]
        elif left.read_bytes() != right.read_bytes():
            wrong.append(f"{name} differs")
    return wrong


# They name the folder, the launch or the time.
IGNORED = ("run.yaml", "complete.json", "train.log")
VARYING = ("runtime", "per_second", "train_loss")  # `train_loss` is that of the last start


def _differing_tensors(
    name: str, left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor], tolerance: float | None
) -> Iterator[str]:
    if left.keys() != right.keys():
        yield f"{name}: tensors {sorted(left.keys() ^ right.keys())} are in one only"
    largest = {
        key: (tensor.double() - right[key].double()).abs().max().item()
        for key, tensor in left.items()
        if key in right and (tolerance is not None or not torch.equal(tensor, right[key]))
    }
    largest = {key: value for key, value in largest.items() if tolerance is None or not value <= tolerance}
    if largest:
        worst = max(largest, key=lambda key: largest[key])
        yield f"{name}: {len(largest)} of {len(left)} tensors differ, {worst} by {largest[worst]:.1e}"


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, Mapping):
        return left.keys() == right.keys() and all(_same(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool((left == right).all()) if hasattr(left, "all") else left == right


def _comparable_state(path: Path, tolerance: float | None, losses: bool) -> dict[str, Any]:
    state = json.loads(path.read_text(encoding="utf-8"))
    state["best_model_checkpoint"] = Path(state["best_model_checkpoint"] or "").name
    if tolerance is not None:
        return {key: state[key] for key in ("best_model_checkpoint", "best_global_step", "global_step", "epoch")}
    state["log_history"] = [
        {key: value for key, value in entry.items() if not key.endswith(VARYING)}
        for entry in state["log_history"]
        if losses or "loss" not in entry
    ]
    return state
