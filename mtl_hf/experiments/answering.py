"""Inference cost of several tasks: one model with all heads compared with one model per task.

Notable: times are medians over rounds that alternate in one process. Peak memory is measured in a separate process for
each side, which loads only the models of that side.
"""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..modeling.heads import answers_texts
from ..modeling.modeling_multitask import MultiTaskModel
from ..saved.models import find_checkpoint

logger = logging.getLogger(__name__)

NUM_TEXTS, BATCH_SIZE, ROUNDS = 512, 32, 3
MAXRSS = 1 if sys.platform == "darwin" else 1024  # bytes per unit of `ru_maxrss`

_CHILD = """
import json, resource, sys
from mtl_hf.experiments.answering import answer_once
answer_once(*json.load(sys.stdin))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure_answering(one: Path, several: Mapping[str, Path]) -> dict[str, Any]:
    """Measure time and memory of predicting the same test texts with one model and with several.

    Tasks that do not predict for a given text (`masked_lm`) and tasks without test texts are left out.

    Args:
        one: Folder of the model with all heads.
        several: Task → folder of its own model.

    Returns:
        `tasks` (their names), `texts`, `batch_size`; for `one` and `several` the `seconds`, the `bytes` of weights and
        the peak `memory` in bytes; the `ratio` of the seconds. Only `tasks` if no task is left.
    """
    passes = _passes(one, list(several))
    tasks = [task for names, _ in passes for task in names]
    if left := [task for task in several if task not in tasks]:
        logger.warning("Inference is measured without %s: there are no test texts for it.", ", ".join(left))
    if not tasks:
        return {"tasks": tasks}
    folders = {"one": {"": str(one)}, "several": {task: str(several[task]) for task in tasks}}
    ways = {way: _load(found) for way, found in folders.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS + 1):
        for way, models in ways.items():
            started = time.perf_counter()
            _answer(models, passes)
            seconds[way].append(time.perf_counter() - started)
    medians = {way: median(times[1:]) for way, times in seconds.items()}  # without the warm-up round
    sizes = {way: sum(map(_bytes, models.values())) for way, models in ways.items()}
    return {
        "tasks": tasks, "texts": sum(len(texts) for _, texts in passes), "batch_size": BATCH_SIZE,
        "seconds": medians, "bytes": sizes,
        "memory": {way: _peak_memory(one, tasks, found) for way, found in folders.items()},
        "ratio": medians["several"] / medians["one"],
    }  # fmt: skip


def answer_once(one: str, tasks: list[str], folders: Mapping[str, str]) -> None:
    """Load models and predict once: the work of a process whose memory is measured.

    Args:
        one: Folder of the run that has the test texts.
        tasks: The tasks.
        folders: Task (empty for all) → folder of its model.
    """
    _answer(_load(folders), _passes(Path(one), tasks))


def _peak_memory(one: Path, tasks: list[str], folders: Mapping[str, str]) -> int:
    """Peak memory of `answer_once` in a separate process, in bytes."""
    request = json.dumps([str(one), tasks, folders])
    done = subprocess.run([sys.executable, "-c", _CHILD], input=request, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * MAXRSS


def _load(folders: Mapping[str, str]) -> dict[str, MultiTaskModel]:
    return {name: find_checkpoint(folder).load() for name, folder in folders.items()}


def _bytes(model: MultiTaskModel) -> int:
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def _answer(models: Mapping[str, MultiTaskModel], passes: Sequence[tuple[list[str], list[Any]]]) -> None:
    """Predict the tasks of each pass on its texts: with one model (named "") all at once, else each with its own."""
    for tasks, texts in passes:
        for name, heads in [("", tasks)] if "" in models else [(task, [task]) for task in tasks]:
            models[name].predict(texts, heads=heads, batch_size=BATCH_SIZE)


def _passes(one: Path, tasks: list[str]) -> list[tuple[list[str], list[Any]]]:
    """Group the tasks into those that read single texts and those that read pairs, with test texts for each group.

    Args:
        one: Folder of a model with all heads, whose `predictions.jsonl` has the texts.
        tasks: The requested tasks.
    """
    forms = {name: spec["text"] for name, spec in find_checkpoint(one).heads.items() if answers_texts(spec)}
    texts: dict[str, list[Any]] = {task: [] for task in tasks if task in forms}
    with (one / "predictions.jsonl").open(encoding="utf-8") as file:
        for line in map(json.loads, file):
            for task in texts.keys() & line["tasks"].keys():
                if len(texts[task]) < NUM_TEXTS:
                    single = isinstance(line["text"], str) or forms[task] == "words"
                    texts[task].append(line["text"] if single else tuple(line["text"]))
    by_form: dict[bool, list[str]] = {}
    for task, found in texts.items():
        if found:
            by_form.setdefault(isinstance(found[0], tuple), []).append(task)
    return [(names, texts[names[0]]) for names in by_form.values()]
