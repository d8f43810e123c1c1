"""Export a model as one ONNX graph, with all that answering texts needs beside it.

Notable: the exported model is compared with the model before anything is written. Real texts are the validation rows of
the run, if its data can be read, else the sentences that ship with the package. Adapters of all heads are merged, where
their type can be; others are part of the graph, and heads with adapters of their own have an encoder pass each.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from tqdm.auto import tqdm

from ... import __version__
from ...files import atomic_folder, check_folder
from ...modeling.adapters import SHARED
from ...modeling.heads import answers_texts
from ...modeling.modeling_multitask import MultiTaskModel
from ...modeling.windows import WINDOW
from ...saved.cards import card_examples
from ...saved.models import Checkpoint, find_checkpoint
from .decoders import DECODERS
from .graph import Graph, write_graph
from .judging import Judge, read_run
from .model import (
    CONFIG,
    EMBEDDING_OUTPUT,
    GRAPH,
    TOKENIZER,
    OnnxConfig,
    OnnxModel,
    files_of,
    hash_of,
    megabytes,
    output_name,
)
from .parity import TOLERANCE, check, compare
from .quantize import MIN_ALIKE, MIN_COSINE
from .quantize import quantize as quantize_graph
from .quantize import table as candidate_table
from .texts import real_texts
from .tokenizer import write_tokenizer

logger = logging.getLogger(__name__)

PARITY = "parity.json"


def export_onnx(
    model: str | Path, to: str | Path, *, overrides: Sequence[str] = (), quantize: str = "", max_drop: float = 0.5
) -> Path:
    """Write a model as an ONNX graph, with its tokenizer, its configuration and a report of the comparison.

    `OnnxModel`, `mtl-hf predict` and `mtl-hf serve` take the folder.

    Args:
        model: A run folder, one of its `checkpoint-N`, or a Hub id.
        to: A new or empty folder.
        overrides: `a.b=c` changes to the config of the run, such as `data=FOLDER`.
        quantize: `int8` to compute most layers in 8 bits: the fastest such graph that answers as the model does on the
            validation rows of the run (`quantize.quantize`). Default: float32.
        max_drop: How many points the score of a task may fall by that.

    Returns:
        The folder.

    Raises:
        ValueError: No such model, the folder is not empty, the model cannot be exported, the graph does not compute
            what the model computes, no graph in int8 is accurate enough, or the rows for that are not there. Nothing is
            written then.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    if quantize not in ("", "int8"):
        raise ValueError(f"`quantize` is {quantize!r}; valid are int8 and an empty string.")
    if not max_drop >= 0:
        raise ValueError(f"`max_drop` is {max_drop}; it should be 0 or more.")
    if missing := missing_packages():
        raise ImportError(f"the export needs {', '.join(missing)}: pip install 'mtl_hf[onnx]'")
    folder = check_folder(to, "to")
    checkpoint = find_checkpoint(model)
    check_exportable(checkpoint)
    if quantize:
        read_run(checkpoint, overrides)  # before the work whose result would be of no use
    with tqdm(total=5 if quantize else 4, desc="loading", unit="step", leave=False) as bar:
        loaded = load_float(checkpoint)
        texts, source = real_texts(checkpoint, overrides)
        bar.update()
        with atomic_folder(folder) as draft:
            bar.set_description("exporting")
            write_model(loaded, checkpoint, draft)
            bar.update()
            bar.set_description("comparing")
            exported = OnnxModel(draft)
            report = {"compared_on": source} | compare(loaded, exported, texts)
            check(report)
            bar.update()
            if quantize:
                bar.set_description("quantizing")
                report["int8"] = write_int8(loaded, exported, checkpoint, overrides, max_drop)
                bar.update()
            (draft / PARITY).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            (draft / "README.md").write_text(_readme(checkpoint, report), encoding="utf-8")
            bar.update()
    logger.info("%s: written to %s (%.1f MB). %s", checkpoint.name, folder,
                megabytes(folder / GRAPH), summary(report))  # fmt: skip
    return folder


def missing_packages() -> list[str]:
    """The packages of the export that are not installed."""
    return [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]


def check_exportable(checkpoint: Checkpoint) -> None:
    """Check that heads can be answered without torch.

    Raises:
        ValueError: A head type is of another package, or pools windows with attention.
    """
    for name, spec in checkpoint.heads.items():
        if spec["type"] not in DECODERS and answers_texts(spec):
            raise ValueError(
                f"the head {name!r} is of type {spec['type']}, whose predictions need torch: it cannot be exported."
            )
        if checkpoint.overflow == WINDOW and spec.get("window_pooling") == "attention":
            raise ValueError(
                f"the head {name!r} has `window_pooling: attention`, which an exported graph cannot compute, since it"
                " knows single windows: train it with `window_pooling: mean`, or serve the model itself."
            )


def load_float(checkpoint: Checkpoint) -> MultiTaskModel:
    """The model in float32 and evaluation mode, with the adapter of all heads merged, if it can be.

    Its attention is computed by plain operations, which ONNX knows.
    """
    loaded = checkpoint.load().eval().float()
    if list(loaded.config.adapters or ()) == [SHARED]:
        try:
            loaded.merge_adapters()
        except ValueError as error:
            logger.info("The adapter is part of the graph (%s).", error)
    loaded.encoder.set_attn_implementation("eager")
    return loaded


def write_model(model: MultiTaskModel, checkpoint: Checkpoint, folder: Path) -> None:
    """Write graph, tokenizer and configuration into a folder."""
    heads = [name for name, spec in model.config.heads.items() if answers_texts(spec)]
    if left_out := [name for name in model.config.heads if name not in heads]:
        logger.info("Not exported, since they predict nothing for a raw text: %s.", ", ".join(left_out))
    no_embeddings = ""
    try:
        model.check_embeddings()
    except ValueError as error:
        no_embeddings = str(error)
    if not heads and no_embeddings:
        raise ValueError(f"{checkpoint.name} has nothing to export: no head that predicts something for a raw text, and"
                         f" no embeddings ({no_embeddings}).")  # fmt: skip
    tokenizer = write_tokenizer(model.tokenizer, folder / TOKENIZER)
    inputs = ["input_ids", "attention_mask"]
    inputs += ["token_type_ids"] if "token_type_ids" in tokenizer["model_input_names"] else []
    inputs += ["word_ids"] if any(model.heads[name].word_ids for name in heads) else []
    graph = Graph(model, heads, not no_embeddings, inputs)
    write_graph(graph, folder / GRAPH, model.config.max_length)
    decoding = {name: {key: values.tolist() for key, values in model.heads[name].decoding_weights().items()}
                for name in heads}  # fmt: skip
    config = OnnxConfig(
        mtl_hf=__version__,
        model=checkpoint.name,
        model_sha256=hash_of_model(checkpoint),
        heads={name: model.config.heads[name] for name in heads},
        decoding={name: found for name, found in decoding.items() if found},
        inputs=inputs,
        hidden_size=model.config.hidden_size,
        no_embeddings=no_embeddings,
        max_length=model.config.max_length,
        overflow=model.config.overflow,
        stride=model.config.stride,
        word_rules=model.config.word_rules,
        tokenizer=tokenizer,
        sha256=hash_of(folder / GRAPH),
    )
    _write_config(config, folder)


def _write_config(config: OnnxConfig, folder: Path) -> None:
    (folder / CONFIG).write_text(
        json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def write_int8(
    model: MultiTaskModel, exported: OnnxModel, checkpoint: Checkpoint, overrides: Sequence[str], max_drop: float
) -> dict[str, Any]:
    """Replace the graph of an exported model by one in int8.

    Args:
        model: The model, in float32 and evaluation mode.
        exported: The exported model.
        checkpoint: Where the model is.
        overrides: `a.b=c` changes to the config of its run.
        max_drop: How many points the score of a task may fall.

    Returns:
        `max_drop`; `training_rows`, on which layers were measured; `validation_rows`; `candidates`, the last of which
        was written; and their `table`.

    Raises:
        ValueError: No candidate is accurate enough, or the rows of the run are not there.
    """
    judge = Judge(model, exported, checkpoint, overrides)
    graph = exported.folder / GRAPH
    tried = quantize_graph(
        graph, graph.with_name(f"int8-{GRAPH}"), judge.calibration, judge,
        reference=lambda batch: model.outputs(batch, exported.readers), max_drop=max_drop,
    )  # fmt: skip
    shown = candidate_table(tried)
    logger.info("int8, judged on %d validation rows:\n%s", judge.num_rows, shown)
    for part in files_of(graph):
        part.unlink()
    graph.with_name(f"int8-{GRAPH}").replace(graph)
    config = dataclasses.replace(exported.config, sha256=hash_of(graph))
    _write_config(config, exported.folder)
    return {
        "max_drop": max_drop,
        "training_rows": len(judge.calibration),
        "validation_rows": judge.num_rows,
        "candidates": [dataclasses.asdict(one) for one in tried],
        "table": shown,
    }


def hash_of_model(checkpoint: Checkpoint) -> str:
    """The SHA-256 of a model's configuration and weights; empty for a model on the Hub."""
    if checkpoint.folder is None:
        return ""
    files = [checkpoint.folder / "config.json", *sorted(checkpoint.folder.glob("*.safetensors"))]
    return hashlib.sha256("".join(map(hash_of, files)).encode()).hexdigest()


def summary(report: dict[str, Any]) -> str:
    """A comparison in one line."""
    largest = max(report["largest_difference"].values(), default=0.0)
    alike = report["answered_alike"]
    least = f"; {min(alike.values()):.4g} % or more of the answers are the same" if alike else ""
    return (
        f"Compared with the model on {report['texts']:,} texts ({report['compared_on']}): the largest difference is"
        f" {largest:.1e}{least}."
    )


def _readme(checkpoint: Checkpoint, report: dict[str, Any]) -> str:
    """The card of an exported model, with the examples of the model's own card."""
    examples = [
        {"text": one} if isinstance(one, str) else one for one in card_examples(checkpoint.path, checkpoint.revision)
    ]
    metadata = {"library_name": "onnx", "tags": ["mtl-hf", "onnx"]} | ({"widget": examples} if examples else {})
    rows = "\n".join(
        f"| {name} | {found:.1e} | {report['answered_alike'].get(name, 100):.4g} % |"
        for name, found in report["largest_difference"].items()
    )
    int8 = ""
    if "int8" in report:
        int8 = f"""
Then most layers were quantized to int8. These graphs were compared with the model in float32 of torch on
{report["int8"]["validation_rows"]:,} validation rows. The last one is in this folder: the fastest whose answers differ
little enough: a score falls by at most {report["int8"]["max_drop"]:g} points, {MIN_ALIKE:.0%} of the rows are answered
alike, and the cosine of embeddings is {MIN_COSINE:g} or more. Names of layers that stay in float are in `{PARITY}`.

{report["int8"]["table"]}
"""
    return f"""---
{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip()}
---

# {Path(checkpoint.name).name} as ONNX

One encoder pass, an output for each head (`{output_name("<head>")}`) and the text embedding (`{EMBEDDING_OUTPUT}`).
Neither torch nor transformers is needed:

```python
from mtl_hf.inference import OnnxModel

model = OnnxModel("FOLDER")  # pip install onnxruntime tokenizers, and mtl_hf
model.predict(["a sentence"])
```

The graph in float32 was compared with the model on {report["texts"]:,} texts ({report["compared_on"]}). Outputs differ
by at most {TOLERANCE:g}:

| head | largest difference | same answer |
|---|---|---|
{rows}
{int8}"""
