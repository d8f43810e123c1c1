"""Compare graphs with their model on the validation rows of its run: scores, answers and embeddings.

Notable: rows are encoded, decoded and scored by the trainer, as in `mtl-hf evaluate`. Only the outputs come from the
graph, so both sides differ in nothing else. Labels are needed: a row whose answer differs may be wrong in both.
"""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...config import RunConfig
from ...data.labels import build_tasks
from ...data.sources import load_sources
from ...evaluation.evaluate import encode_split, load_data, load_run, narrow
from ...metrics import LOSS_LIKE, join_answers
from ...modeling.encoding import KINDS, PAIRS, SINGLE, kind_of
from ...modeling.modeling_multitask import MultiTaskModel, MultiTaskOutput
from ...modeling.texts import Readers
from ...saved.models import Checkpoint
from ...saved.runs import check_saved_run, drop_metrics
from ...saved.start import with_kept_options
from ...tasks import Answers, SourceData
from ...training.arguments import MultiTaskTrainingArguments
from ...training.trainer import MultiTaskTrainer
from .int8_graph import Rows
from .model import OnnxModel, open_graph
from .parity import text_batches
from .quantize import Verdict

logger = logging.getLogger(__name__)

NUM_CALIBRATION = 200  # training rows
MOST_ROWS = 2000  # validation rows of a source
FEW_ROWS = 500  # of a task; for 2 % that differ among fewer, the standard error is above 0.6 %


class Judge:
    """Compares graphs with a model.

    Args:
        model: The model, in float32 and evaluation mode.
        exported: The exported model; its session is replaced by that of each graph.
        checkpoint: Where the model is.
        overrides: `a.b=c` changes to the config of its run.
        split: The split to compare on.

    Attributes:
        calibration: Inputs of the graph for training rows, each of one segment without padding.
        num_rows: Number of rows that are compared.
        texts: Kind (`SINGLE`, `PAIRS`) → their texts, which are embedded.

    Raises:
        ValueError: The run, its data or its labels are not there.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        exported: OnnxModel,
        checkpoint: Checkpoint,
        overrides: Sequence[str] = (),
        *,
        split: str = "validation",
    ) -> None:
        run = read_run(checkpoint, overrides)
        run.tasks = {name: task for name, task in run.tasks.items() if name in exported.heads}
        try:
            training = load_sources(run, ["train"])
            sources, split = load_data(run, split, [checkpoint])
        except (ValueError, OSError) as error:
            raise ValueError(
                "`--quantize int8` needs training and validation rows of the run: name the place of its data, such as"
                f" data=FOLDER. ({' '.join(str(error).split())})"
            ) from error
        for name, source in sources.items():
            found = source.splits[split]
            if len(found) > MOST_ROWS:
                logger.info("Source %s: the first %d of %d %s rows are compared.", name, MOST_ROWS, len(found), split)
                source.splits[split] = found.select(range(MOST_ROWS))
        tasks = build_tasks(with_kept_options(run, checkpoint.heads, always=True), sources, checkpoint.vocabularies)
        assert checkpoint.run is not None
        drop_metrics(tasks, checkpoint.run, overrides)
        self.model, self.exported, self.tasks = model, exported, tasks
        self.splits = {name: encode_split(source, split, tasks, model) for name, source in sources.items()}
        self.num_rows = sum(len(source.splits[split]) for source in sources.values())
        self.texts = _texts_of(sources, split) if not exported.config.no_embeddings else {}
        self.calibration = _calibration(model, exported, training)
        self._scores, self._answers = self._score()
        self._num_rows = {name: len(found.rows) for name, found in self._answers.items()}
        self._embeddings = {kind: np.asarray(model.encode(texts)) for kind, texts in self.texts.items()}
        if not self._scores:
            raise ValueError(f"no {split} row of the run has a label, so int8 cannot be judged (`--quantize int8`).")
        for name, count in self._num_rows.items():
            if count < FEW_ROWS:
                logger.warning("Task %s: with only %d %s rows, other rows may be answered alike less often than these.",
                               name, count, split)  # fmt: skip
        if unseen := [name for name in exported.heads if name not in self._scores]:
            logger.warning("%s: no %s rows, so their answers in int8 are not judged.", ", ".join(unseen), split)

    def __call__(self, graph: Path) -> Verdict:
        """How far the answers of a graph differ from those of the model."""
        self.exported.session = open_graph(graph)
        with _answered_by(self.model, self.exported):
            scores, answers = self._score()
        drops = {name: _drop(self._scores[name], numbers) for name, numbers in scores.items()}
        alike = {name: _alike(self._answers[name], found) for name, found in answers.items()}
        cosines = [_cosines(own, self.exported.encode(self.texts[kind])).min()
                   for kind, own in self._embeddings.items()]  # fmt: skip
        return Verdict(drops, alike, self._num_rows, float(np.min(cosines)) if cosines else None)

    def _score(self) -> tuple[dict[str, Any], dict[str, Answers]]:
        """Task → its metrics, and task → its answers over all sources."""
        answers: dict[str, dict[str, Answers]] = {}
        with tempfile.TemporaryDirectory() as scratch:
            arguments = MultiTaskTrainingArguments(
                output_dir=scratch, precision="fp32", use_cpu=True, per_device_eval_batch_size=32, eval_strategy="no",
                save_strategy="no", load_best_model_at_end=False, disable_tqdm=True,
            )  # fmt: skip
            trainer = MultiTaskTrainer(self.model, arguments, tasks=self.tasks, processing_class=self.model.tokenizer)
            results = trainer.score(self.splits, keep_answers=answers)
        return results["tasks"], {name: join_answers(answers, name) for name in results["tasks"]}


def read_run(checkpoint: Checkpoint, overrides: Sequence[str]) -> RunConfig:
    """The config of a model's run, narrowed to the tasks that it has heads for.

    Raises:
        ValueError: The model has no run, or its config is not valid.
    """
    if checkpoint.run is None:
        raise ValueError(
            f"{checkpoint.name} has no run.yaml that names its data: `--quantize int8` needs training and validation"
            " rows of the run."
        )
    run = load_run(None, checkpoint, overrides)
    assert run is not None
    narrow(run, [checkpoint])
    check_saved_run(run, checkpoint.run)
    return run


def _texts_of(sources: dict[str, SourceData], split: str) -> dict[str, list[Any]]:
    """Kind (`SINGLE`, `PAIRS`) → the texts that can be embedded."""
    texts: dict[str, list[Any]] = {}
    for source in sources.values():
        for text in source.texts(split, range(len(source.splits[split]))):
            if kind_of(text) in (SINGLE, PAIRS):
                texts.setdefault(kind_of(text), []).append(text)
    return texts


def _calibration(model: MultiTaskModel, exported: OnnxModel, sources: dict[str, SourceData]) -> Rows:
    """Inputs of the graph for some training rows of each source, segment by segment."""
    random, rows = np.random.default_rng(13), []
    for source in sources.values():
        count = len(source.splits["train"])
        several = min(count, -(-NUM_CALIBRATION // len(sources)))
        texts = source.texts("train", sorted(random.choice(count, several, replace=False).tolist()))
        forms = {name: model.config.heads[name]["text"] for name in exported.heads}
        readers = [name for name, form in forms.items() if KINDS[form] == KINDS[source.form]]
        readers.sort(key=lambda name: forms[name] != source.form)
        for batch, _ in text_batches(model, readers[:1], texts):
            for number, length in enumerate(batch["attention_mask"].sum(1)):
                own = {name: values[number : number + 1, : max(1, length)] for name, values in batch.items()
                       if name != "num_segments"}  # fmt: skip
                rows.append(exported.feed(own))
    return rows


@contextmanager
def _answered_by(model: MultiTaskModel, exported: OnnxModel) -> Iterator[None]:
    """Let a graph compute the outputs of the heads, which are grouped by row already."""

    def forward(**batch: Any) -> MultiTaskOutput:
        names: Readers = [*(batch.get("heads") or exported.heads)]
        arrays = {key: values.cpu().numpy() for key, values in batch.items() if isinstance(values, torch.Tensor)}
        found = exported.outputs(arrays, names)
        return MultiTaskOutput(logits={str(name): torch.from_numpy(one) for name, one in found.items()})

    def as_they_are(logits: torch.Tensor, inputs: Any = None) -> torch.Tensor:
        return logits

    replaced: list[tuple[Any, str, Any]] = [(model, "forward", forward)]
    replaced += [(head, "by_row", as_they_are) for head in model.heads.values()]
    for module, name, function in replaced:
        setattr(module, name, function)
    try:
        yield
    finally:
        for module, name, _ in replaced:
            delattr(module, name)


def _drop(reference: dict[str, Any], found: dict[str, Any]) -> float:
    """How much the primary metric falls, in points; of losses, how much it rises, in percent."""
    metric = reference["primary"]
    before, after = reference[metric], found[metric]
    if np.isnan(before) and np.isnan(after):
        return 0.0
    if metric in LOSS_LIKE:
        return float(100 * (after - before) / max(abs(before), 1e-9))
    return float(100 * (before - after))


def _alike(reference: Answers, found: Answers) -> float:
    """Share of rows with the same answer; of numbers, those within a twentieth of their standard deviation."""
    ours, theirs = list(reference.predicted), list(found.predicted)
    if not ours:
        return 1.0
    if all(isinstance(one, int | float | np.number) for one in ours):
        return float((np.abs(np.subtract(ours, theirs)) <= np.std(ours) / 20).mean())
    return float(np.mean([bool(np.all(one == two)) for one, two in zip(ours, theirs, strict=True)]))


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines: np.ndarray = (ours * theirs).sum(1) / np.maximum(lengths, 1e-12)
    return cosines
