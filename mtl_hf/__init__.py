"""`mtl_hf`: multi-task fine-tuning for Hugging Face. One pretrained encoder, many task heads, one Trainer.

Names resolve on first use, so importing the package costs nothing; touching one of them registers the model with
transformers' `AutoConfig`, `AutoModel` and `pipeline`.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "MultiTaskConfig": ".modeling.configuration_multitask",
    "MultiTaskModel": ".modeling.modeling_multitask",
    "MultiTaskPipeline": ".modeling.pipeline",
    "MultiTaskOutput": ".modeling.modeling_multitask",
    "HEADS": ".modeling.heads",
    "POOLING": ".modeling.pooling",
    "load_tokenizer": ".modeling.tokenizing",
    "RunConfig": ".config",
    "TASK_TYPES": ".tasks",
    "register_task_type": ".tasks",
    "TaskType": ".tasks",
    "load_sources": ".data.sources",
    "build_tasks": ".data.labels",
    "encode_rows": ".data.rows",
    "Collator": ".data.collator",
    "EncodedRows": ".data.collator",
    "RoundRobinBatchSampler": ".data.schedule",
    "ProportionalBatchSampler": ".data.schedule",
    "METRICS": ".metrics",
    "MultiTaskTrainingArguments": ".training.arguments",
    "MultiTaskTrainer": ".training.trainer",
    "train": ".run",
    "evaluate": ".evaluation.evaluate",
    "compare": ".experiments.compare",
    "tune": ".experiments.tune",
    "plot_run": ".evaluation.run_plots",
    "export_head": ".inference.export",
    "export_encoder": ".inference.export_encoder",
    "merge_adapters": ".inference.merge",
    "push": ".hub.push",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    value = getattr(importlib.import_module(_EXPORTS[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def register() -> None:
    """Make `AutoConfig` and `AutoModel` know the model, and `pipeline` the task `multi-task`."""
    from transformers import AutoConfig, AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from .modeling.configuration_multitask import MultiTaskConfig
    from .modeling.modeling_multitask import MultiTaskModel
    from .modeling.pipeline import TASK, MultiTaskPipeline

    AutoConfig.register(MultiTaskConfig.model_type, MultiTaskConfig, exist_ok=True)
    AutoModel.register(MultiTaskConfig, MultiTaskModel, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(TASK, pipeline_class=MultiTaskPipeline, pt_model=AutoModel, type="text")
