"""Cache the outputs of the frozen encoder layers, so that they are computed once instead of in every epoch.

Notable: the hidden states are computed exactly as in the run, in its precision, and stored in one memory-mapped file
per source beside the cached data sets. The file name is a hash of everything that affects them: the rows, the frozen
weights, the layer, the precision, the attention kernel, the encoder's configuration and the library versions. If only
lower layers are frozen, the encoder itself runs without these layers, with the cached states as input of the next one;
so no encoder family needs special code, and a few rows are compared before training to check that it works.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import datasets
import numpy as np
import torch
import transformers
from torch import Tensor, nn

from ..config import Thawing
from ..data.collator import Collator, EncodedRows, fingerprint, row_lengths
from ..data.row_states import RowStates
from ..modeling.bottleneck import find_layers
from ..modeling.modeling_multitask import MultiTaskModel
from ..modeling.reading import layers_of
from ..modeling.windows import WINDOW
from .features import Feature
from .optimizer import Part

if TYPE_CHECKING:
    from .trainer import MultiTaskTrainer

logger = logging.getLogger(__name__)

_VERSION = 1  # increase it when the states of a key change
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_READ = ("input_ids", "token_type_ids", "segments")  # columns of encoded rows that affect the encoder's outputs
BATCH_SIZE = 64  # texts; not that of evaluation, which may differ in a resumed run
TRIED = 4  # rows


def check_cache(size: str, freeze: Sequence[str], unfreeze: Thawing | None, activation_checkpointing: bool) -> None:
    """Check `training.frozen_cache`, as far as possible without a model.

    Raises:
        ValueError: Not a size; nothing is frozen, or everything is unfrozen later; or gradient checkpointing is used,
            which runs layers again in the backward pass.
    """
    num_bytes(size)
    if not freeze:
        raise ValueError(
            "`frozen_cache` stores the outputs of frozen layers, but `freeze` names none: set `freeze: [encoder]`, or"
            " [embeddings, encoder.layers.0-2]."
        )
    if unfreeze is not None and unfreeze.schedule == "gradual":
        raise ValueError(
            "`frozen_cache` needs layers that are frozen for the whole run, but `schedule: gradual` unfreezes the whole"
            " encoder: unfreeze a part of it with `schedule: explicit`, or remove `unfreeze` and list in `freeze` only"
            " parts that stay frozen."
        )
    if activation_checkpointing:
        raise ValueError("`frozen_cache` and `activation_checkpointing` cannot be combined: choose one.")


def num_bytes(size: str) -> int:
    """Parse a size such as 500MB or 1.5GB into bytes; units are powers of 1,000.

    Raises:
        ValueError: It is not a size.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(MB|GB|TB)", size.strip())
    if not found:
        raise ValueError(f"`frozen_cache` is {size!r}; set the maximum size of the cache, such as 500MB or 4GB.")
    return int(float(found[1]) * _UNITS[found[2]])


def layers_read(model: MultiTaskModel) -> int:
    """The maximum number of last encoder layers that a head reads."""
    return max(layers_of(head) for head in model.heads.values())


def first_layer(model: MultiTaskModel, parts: Sequence[Part]) -> int | None:
    """The first layer that must run for every batch; None if the encoder need not run at all.

    Layers whose states a head averages (`mean_last_<n>`) always run, even if they are frozen.

    Raises:
        ValueError: The embeddings and the lowest layer are not frozen, or heads read so many layers that none is left.
    """
    frozen = {part.name for part in parts if part.frozen}
    read = layers_read(model)
    if read == 1 and all(part.name in frozen for part in parts if part.in_encoder):
        return None
    _, num_layers = find_layers(model.encoder)
    layer = 0
    while f"encoder.layers.{layer}" in frozen:
        layer += 1
    if "embeddings" not in frozen or layer == 0:
        raise ValueError(
            "`frozen_cache` needs the embeddings and the lowest layers frozen for the whole run, because all layers"
            " above a trained part change: set `freeze: [embeddings, encoder.layers.0-2]`, or [encoder]."
        )
    if read > num_layers:
        raise ValueError(
            "`frozen_cache`: a head with `layers: mix` reads the output of every layer, so no layer is left to cache."
            " Remove one of the two."
        )
    layer = min(layer, num_layers - read)
    if layer < 1:
        raise ValueError(
            f"`frozen_cache`: a head reads the last {read} of {num_layers} layers, so no layer is left to cache."
        )
    return layer


@contextmanager
def _some_layers(encoder: nn.Module, kept: slice, hooked: int, hook: Callable[..., Any]) -> Iterator[None]:
    """Run an encoder with only some of its layers, with a hook before one of them (index in the full encoder)."""
    name, _ = find_layers(encoder)
    owner_name, _, attribute = name.removesuffix(".").rpartition(".")
    owner = encoder.get_submodule(owner_name)
    layers: Any = getattr(owner, attribute)
    handle = layers[hooked].register_forward_pre_hook(hook, with_kwargs=True)
    setattr(owner, attribute, layers[kept])
    try:
        yield
    finally:
        setattr(owner, attribute, layers)
        handle.remove()


@contextmanager
def entering(model: MultiTaskModel, layer: int | None, states: Tensor) -> Iterator[dict[str, Tensor]]:
    """Let a model start from known hidden states.

    Args:
        model: The model, to be called with the batch of these states.
        layer: The result of `first_layer`.
        states: Inputs of that layer, or the encoder's last hidden states, (B, T, H).

    Yields:
        Additional inputs of the model.
    """
    if layer is None:
        yield {"encoder_states": states}
        return

    begin = 0  # without gradients, the encoder may read windows in several parts (`windows.WINDOWS_AT_ONCE`)

    def put_in(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        nonlocal begin
        end = begin + len(args[0] if args else kwargs["hidden_states"])
        part, begin = states[begin:end], end % len(states)
        return ((part, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": part})

    with _some_layers(model.encoder, slice(layer, None), layer, put_in):
        yield {}


def states_before(model: MultiTaskModel, layer: int | None, batch: Mapping[str, Tensor]) -> Tensor:
    """The inputs of a layer, or for None the encoder's last hidden states, (B, T, H)."""
    if layer is None:
        return model.encoder(**batch, return_dict=True).last_hidden_state
    found: list[Tensor] = []

    def take(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])

    with _some_layers(model.encoder, slice(0, layer + 1), layer, take):
        model.encoder(**batch, return_dict=True)
    return found[0]


class FrozenStates(Feature):
    """The cached hidden states of a run's rows after the frozen layers of its encoder.

    Args:
        model: The model, on its device.
        parts: The result of `find_parts`, with the parts frozen that stay frozen for the whole run.
        collator: Makes batches of rows.
        splits: `train` and `validation` → source → all encoded rows whose states are cached.
        cap: Maximum size in bytes.
        precision: Precision of the run.
        autocast: Autocast context of the run.
        main_process_first: A context that the main process of a machine enters before the others.

    Raises:
        ValueError: Rows are masked anew in every epoch; the lowest parts are not frozen; frozen parts depend on trained
            ones; the encoder cannot run from a given layer on; or the states need more than `cap`.
    """

    def __init__(
        self,
        model: MultiTaskModel,
        parts: Sequence[Part],
        collator: Collator,
        splits: Mapping[str, Mapping[str, datasets.Dataset]],
        cap: int,
        precision: str,
        autocast: Callable[[], AbstractContextManager[None]],
        main_process_first: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        if masked := list(collator.maskings):
            raise ValueError(f"`frozen_cache` cannot be used with masked_lm (source {masked[0]!r}): its inputs are"
                             " masked anew each epoch. Remove one of them.")  # fmt: skip
        self.model, self.collator, self.precision, self.autocast = model, collator, precision, autocast
        self.splits, self.main_process_first = splits, main_process_first
        self._opened: dict[str, dict[str, RowStates]] = {}
        self.layer = first_layer(model, parts)
        self.folder = Path(datasets.config.HF_DATASETS_CACHE) / "frozen_states"
        rows = [one for sources in splits.values() for one in sources.values()]
        self.dtype = self._try(rows[0])
        where = "the encoder" if self.layer is None else f"layer {self.layer - 1} of the encoder"
        tokens = sum(int(row_lengths(one).sum()) for one in rows)
        size = tokens * model.config.hidden_size * self.dtype.itemsize
        shown = f"The hidden states of {tokens:,} tokens after {where} need {size / 1e6:,.2f} MB"
        if size > cap:
            raise ValueError(f"`frozen_cache` is {cap / 1e6:,.2f} MB. {shown}: increase it, or remove it.")
        logger.info("%s, cached in %s.", shown, self.folder)

    def before_training(self, rows: EncodedRows) -> None:
        """Compute the states of all rows, unless they are cached."""
        with self.main_process_first():
            self._opened = self.open()
        rows.states = self._opened["train"]

    def before_evaluation(self, source: str, rows: EncodedRows, order: np.ndarray) -> None:
        """Add the cached states to validation rows."""
        if source in self._opened.get("validation", {}):
            rows.states = {source: self._opened["validation"][source].select(order)}

    @contextmanager
    def around_forward(self, inputs: dict[str, Any]) -> Iterator[None]:
        """Start from the cached states of the batch, if it has them."""
        states = inputs.pop("encoder_states", None)
        if states is None:
            yield
            return
        with entering(self.model, self.layer, states) as known:
            inputs |= known
            yield

    def _batch(self, encoded: EncodedRows, rows: Sequence[int]) -> dict[str, Tensor]:
        batch = self.collator(encoded.__getitems__(rows))
        read = ("input_ids", "attention_mask", "token_type_ids")
        return {name: batch[name].to(self.model.device) for name in read if name in batch}

    def _try(self, rows: datasets.Dataset) -> torch.dtype:
        """Check that the encoder gives the same outputs from the cached states; return the type of the states."""
        batch = self._batch(_unlabelled(rows), range(min(TRIED, len(rows))))
        real = batch["attention_mask"].bool()
        with self.model.evaluating(), self.autocast():
            states = states_before(self.model, self.layer, batch)
            if states.requires_grad:
                trained = [name for name, parameter in self.model.encoder.named_parameters() if parameter.requires_grad]
                raise ValueError(
                    "`frozen_cache`: the outputs of the frozen layers depend on trained parts, one of"
                    f" {', '.join(trained[-3:])}: add these to `freeze`, or remove `frozen_cache`."
                )
            if self.layer is not None:
                whole = self._read_by_heads(batch)[:, real]
                with entering(self.model, self.layer, states):
                    entered = self._read_by_heads(batch)[:, real]
                if not torch.allclose(whole, entered, rtol=1e-3, atol=1e-3):
                    raise ValueError(
                        f"`frozen_cache`: a {type(self.model.encoder).__name__} cannot run from layer {self.layer}"
                        " on. Freeze the whole encoder (`freeze: [encoder]`), or remove `frozen_cache`."
                    )
        return states.dtype

    def _read_by_heads(self, batch: Mapping[str, Tensor]) -> Tensor:
        """The hidden states that heads read: the encoder's output and those of its last layers, (layers, B, T, H)."""
        encoded = self.model.encoder(**batch, return_dict=True, output_hidden_states=True)
        layers = encoded.hidden_states[-layers_read(self.model) :]
        return torch.stack([encoded.last_hidden_state, *layers]).double()

    def open(self) -> dict[str, dict[str, RowStates]]:
        """The states as split → source → states; computed and cached first if necessary.

        Raises:
            ValueError: There is not enough disk space.
        """
        weights = hashlib.sha256()
        for name, tensor in [*self.model.encoder.named_parameters(), *self.model.encoder.named_buffers()]:
            if not tensor.requires_grad:
                weights.update(name.encode())
                weights.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        config: Any = self.model.config
        known = [
            _VERSION, weights.hexdigest(), self.layer, str(self.dtype), self.precision, self.model.device.type,
            config.encoder_attn_implementation, config.text_config.to_dict() | {"_name_or_path": ""},
            torch.__version__, transformers.__version__,
        ]  # fmt: skip

        def path(rows: datasets.Dataset) -> Path:
            own = fingerprint(rows.select_columns([column for column in _READ if column in rows.column_names]))
            key = hashlib.sha256(json.dumps([*known, own], sort_keys=True, default=str).encode()).hexdigest()[:32]
            return self.folder / f"{key}.states"

        return {
            split: {name: self._open_one(rows, path(rows)) for name, rows in sources.items()}
            for split, sources in self.splits.items()
        }

    def _open_one(self, rows: datasets.Dataset, path: Path) -> RowStates:
        lengths = row_lengths(rows).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        shape = int(lengths.sum()), self.model.config.hidden_size
        size = shape[0] * shape[1] * self.dtype.itemsize
        if not path.is_file() or path.stat().st_size != size:
            if path.is_file():
                logger.warning("The cached states in %s are damaged (%s bytes instead of %s) and are computed again.",
                               path, f"{path.stat().st_size:,}", f"{size:,}")  # fmt: skip
            self.folder.mkdir(parents=True, exist_ok=True)
            if size > (free := shutil.disk_usage(self.folder).free):
                raise ValueError(f"`frozen_cache`: the states of {len(rows):,} rows need {size / 1e6:,.2f} MB, but"
                                 f" {self.folder} has {free / 1e6:,.2f} MB free.")  # fmt: skip
            draft = path.with_name(f".{path.name}.{os.getpid()}.draft")  # another run may write the same file
            try:
                self._fill(rows, RowStates(_mapped(draft, shape, self.dtype, True), starts, lengths))
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
        return RowStates(_mapped(path, shape, self.dtype, False), starts, lengths)

    @torch.no_grad()
    def _fill(self, rows: datasets.Dataset, states: RowStates) -> None:
        """Compute the states of rows, longest first, to keep padding small."""
        encoded = _unlabelled(rows)
        order = np.argsort(-states.lengths, kind="stable")
        with self.model.evaluating(), self.autocast():
            begin = 0
            while begin < len(order):
                number = BATCH_SIZE
                if self.model.config.overflow == WINDOW:  # the first row of a batch has most windows
                    num_windows = int(states.lengths[order[begin]]) // self.model.config.max_length + 1
                    number = max(1, BATCH_SIZE // num_windows)
                chosen = order[begin : begin + number]
                begin += number
                batch = self._batch(encoded, chosen.tolist())
                found = states_before(self.model, self.layer, batch)
                states.states[states.places(chosen)] = found[batch["attention_mask"].bool()].cpu()


def _unlabelled(rows: datasets.Dataset) -> EncodedRows:
    return EncodedRows({"rows": rows}, with_labels=False, heads=["none"])


def _mapped(path: Path, shape: tuple[int, int], dtype: torch.dtype, written: bool) -> Tensor:
    """A memory-mapped file as a tensor; with `written`, the file is created."""
    return torch.from_file(str(path), shared=written, size=shape[0] * shape[1], dtype=dtype).view(shape)


def make_frozen_states(trainer: "MultiTaskTrainer") -> FrozenStates | None:
    """The feature of `frozen_cache`; nothing is computed before training starts.

    Raises:
        ValueError: See `FrozenStates`; or FSDP is used.
    """
    args = trainer.args
    if args.frozen_cache is None or not trainer.train_rows:
        return None
    if trainer.is_fsdp_enabled:
        raise ValueError("`frozen_cache` does not support FSDP: use configs/accelerate/multi_gpu.yaml.")
    return FrozenStates(
        trainer.model,
        trainer.parts,
        cast(Collator, trainer.data_collator),
        {
            "train": trainer.train_rows,
            "validation": {name: split.rows for name, split in trainer.eval_splits.items()},
        },
        num_bytes(args.frozen_cache),
        args.precision,
        trainer.accelerator.autocast,
        partial(args.main_process_first, desc="computing frozen states"),
    )
