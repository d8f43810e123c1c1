"""`OnnxModel`: predictions and embeddings of an exported model. It needs onnxruntime, tokenizers and numpy only.

Notable: texts are read and outputs are decoded by the code of the model itself (`modeling/texts.py`,
`modeling/decode_<type>.py`), so the answers are the same. Of the heads, only those that are asked for are computed. The
graph is checked against the hash in `onnx_config.json`, since the graph of another model would answer without an error.
"""

import hashlib
import importlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ...modeling.decoding import mean_by_row
from ...modeling.encoding import check_count, check_texts
from ...modeling.texts import Batch, Readers, TextModel, embed_texts, report_cut
from ...modeling.windows import WINDOW, WINDOWS_AT_ONCE, window_stride
from .decoders import build_decoder
from .tokenizer import SETTINGS, FastTokenizer

logger = logging.getLogger(__name__)

GRAPH, CONFIG, TOKENIZER = "model.onnx", "onnx_config.json", "tokenizer.json"
EMBEDDING_OUTPUT = "text_embedding"


def output_name(head: str) -> str:
    """Name of the output of a head."""
    return f"logits_{head}"


@dataclass(frozen=True)
class OnnxConfig:
    """What `onnx_config.json` holds.

    Attributes:
        mtl_hf: Version of the package that wrote it.
        model: The model that was exported.
        model_sha256: Hash of its configuration and weights; empty for a model on the Hub.
        heads: Head → its specification, as in the config.json of the model.
        decoding: Head → parameters that its decoder needs, by name.
        inputs: Inputs of the graph.
        hidden_size: Width of the text embedding, H.
        no_embeddings: Why the graph has no text embedding; empty if it has one.
        max_length: Maximum number of tokens of a segment.
        overflow: How longer texts are read: `truncate` or `window`.
        stride: Tokens that neighbouring windows share; None for a quarter of `max_length`.
        word_rules: How strings are split into words; None for the plain splitting.
        tokenizer: The values of `tokenizer.SETTINGS`.
        sha256: Hash of the graph.
    """

    mtl_hf: str
    model: str
    model_sha256: str
    heads: dict[str, dict[str, Any]]
    decoding: dict[str, dict[str, list[Any]]]
    inputs: list[str]
    hidden_size: int
    no_embeddings: str
    max_length: int
    overflow: str
    stride: int | None
    word_rules: dict[str, Any] | None
    tokenizer: dict[str, Any]
    sha256: str

    @property
    def window_stride(self) -> int | None:
        """Tokens that neighbouring windows share; None if long texts are truncated."""
        return window_stride(self.overflow, self.stride, self.max_length)


class OnnxModel(TextModel):
    """An exported model.

    `predict`, `predict_stream` and `encode` take the arguments of `MultiTaskModel`, and give the same answers.

    Attributes:
        config: Its configuration.
        folder: Its folder.
        tokenizer: Its tokenizer.
        heads: Head → its decoder.
        session: The session of onnxruntime.

    Args:
        folder: A folder that `mtl-hf export --format onnx` wrote.
        threads: Threads of a pass. Default: the environment variable OMP_NUM_THREADS, else the number of cores.

    Raises:
        ValueError: The folder is not one of these, or its files are damaged or do not belong together.
        ImportError: onnxruntime is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], *, threads: int | None = None) -> None:
        self.folder = Path(folder)
        self.config = read_config(self.folder)
        self.tokenizer = FastTokenizer(self.folder / TOKENIZER, self.config.tokenizer)
        self.heads = {}
        for name, spec in self.config.heads.items():
            self.heads[name] = build_decoder(spec)
            weights = self.config.decoding.get(name, {})
            self.heads[name].weights = {key: np.array(values, np.float64) for key, values in weights.items()}
        self.session = open_graph(self.folder / GRAPH, threads, self.config.sha256)
        known = {found.name for found in self.session.get_outputs()}
        if lacking := [name for name in self.heads if output_name(name) not in known]:
            raise ValueError(f"{self.folder / GRAPH} has no output for {', '.join(lacking)}: export the model again.")
        self._only_requested = _runtime().RunOptions()
        self._only_requested.only_execute_path_to_fetches = True
        self._warned_heads: set[str] = set()
        self._warned_no_answer: set[str] = set()

    @property
    def readers(self) -> Readers:
        """Everything that the graph computes: the names of its heads, and None if it has the embedding."""
        return [*self.heads, *([] if self.config.no_embeddings else [None])]

    def outputs(self, batch: Batch, names: Readers) -> dict[str | None, np.ndarray]:
        """See `TextModel.outputs`."""
        wanted = [EMBEDDING_OUTPUT if name is None else output_name(name) for name in names]
        found = dict(zip(names, self._run(wanted, self.feed(batch)), strict=True))
        return {
            name: mean_by_row(one, batch) if name is None else self.heads[name].by_row(one, batch)
            for name, one in found.items()
        }

    def feed(self, batch: Batch) -> Batch:
        """The inputs of the graph for a batch."""
        return {name: batch[name] if name in batch else self._absent(name, batch) for name in self.config.inputs}

    def _run(self, wanted: list[str], feed: Batch) -> list[np.ndarray]:
        """Run the graph; at most `WINDOWS_AT_ONCE` windows of long texts at once, to save memory."""
        number = len(feed["input_ids"])
        size = WINDOWS_AT_ONCE if self.config.overflow == WINDOW else number
        parts = []
        for begin in range(0, number, size):
            some = {key: rows[begin : begin + size] for key, rows in feed.items()}
            parts.append(self.session.run(wanted, some, self._only_requested))
        return [np.concatenate(column) for column in zip(*parts, strict=True)] if len(parts) > 1 else parts[0]

    @staticmethod
    def _absent(name: str, batch: Batch) -> np.ndarray:
        """An input that no head of this batch reads: no token has a word, or all are of the first text."""
        return np.full_like(batch["input_ids"], -1 if name == "word_ids" else 0)

    def encode(
        self,
        texts: str | Sequence[Any],
        *,
        batch_size: int = 32,
        normalize: bool = False,
        show_progress: bool = False,
    ) -> np.ndarray:
        """Sentence embeddings, with the pooling of the model.

        Args:
            texts: A string, or a sequence of strings (or of pairs, as tuples).
            batch_size: Texts per batch; texts of similar length share one.
            normalize: Whether to scale each embedding to length 1.
            show_progress: Whether to show a progress bar.

        Returns:
            (num_texts, hidden_size) float32 in the order of `texts`; (hidden_size,) for a single string.

        Raises:
            ValueError: An item is not a text, pairs and single texts are mixed, `batch_size` is below 1, or the model
                has no embeddings.
        """
        several = [texts] if isinstance(texts, str) else texts
        check_texts(several)
        check_count("batch_size", batch_size)
        self.check_embeddings()
        found, num_cut = embed_texts(
            self, several, lambda batch: self.outputs(batch, [None])[None], batch_size, show_progress
        )
        report_cut(num_cut, len(several), self.config.max_length)
        if normalize:
            found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        return found[0] if isinstance(texts, str) else found

    def check_embeddings(self) -> None:
        """Raise `ValueError` if the graph has no text embedding."""
        if self.config.no_embeddings:
            raise ValueError(f"the exported model has no embeddings: {self.config.no_embeddings}")


def is_exported(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is that of an exported model."""
    return Path(folder, CONFIG).is_file()


def read_config(folder: Path) -> OnnxConfig:
    """Read and check `onnx_config.json`.

    Raises:
        ValueError: The folder has none, or it is damaged.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is not an exported model: it has no {CONFIG}. `mtl-hf export` writes one.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    names = {field.name for field in fields(OnnxConfig)}
    if not isinstance(found, dict) or found.keys() != names:
        odd = sorted(names ^ found.keys()) if isinstance(found, dict) else [type(found).__name__]
        raise ValueError(f"{path} is damaged or of another version of mtl_hf: {', '.join(odd)}.")
    for key, kind in (("heads", dict), ("decoding", dict), ("inputs", list), ("tokenizer", dict), ("sha256", str)):
        if not isinstance(found[key], kind):
            raise ValueError(f"{path} is damaged: `{key}` is {found[key]!r:.60}.")
    if lacking := set(SETTINGS) - found["tokenizer"].keys():
        raise ValueError(f"{path} is damaged: `tokenizer` has no {', '.join(sorted(lacking))}.")
    return OnnxConfig(**found)


def open_graph(path: Path, threads: int | None = None, sha256: str | None = None) -> Any:
    """A session of onnxruntime on the CPU.

    Args:
        path: The graph.
        threads: See `OnnxModel`.
        sha256: Its hash, if it is known.

    Raises:
        ValueError: There is no such file, it is damaged, or it has another hash.
        ImportError: onnxruntime is not installed.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: export the model again.")
    if sha256 is not None and hash_of(path) != sha256:
        raise ValueError(f"{path} is damaged, or of another model than {CONFIG} beside it: export the model again.")
    threads = threads or int(os.environ.get("OMP_NUM_THREADS", "0") or 0) or (os.cpu_count() or 1)
    try:
        return make_session(str(path), threads)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be loaded: {' '.join(str(error).split())[:300]}") from error


def make_session(graph: str | bytes, threads: int) -> Any:
    """A session for a graph in a file, or in memory, on the CPU."""
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; warnings are about its own optimizations
    return runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def files_of(path: Path) -> list[Path]:
    """The files of a graph: its own, and that of its weights, if they are apart."""
    return [part for part in (path, path.with_name(f"{path.name}.data")) if part.is_file()]


def megabytes(path: Path) -> float:
    """Megabytes of a graph and its weights."""
    return sum(part.stat().st_size for part in files_of(path)) / 1e6


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, or of a graph and its weights."""
    found = hashlib.sha256()
    for part in files_of(path):
        with part.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _runtime() -> Any:
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise ImportError("exported models need onnxruntime: pip install 'mtl_hf[onnx]'") from error
