"""`mtl-hf export-head`: export one head as a stock transformers model."""

import argparse

HELP = "export one head as a stock transformers model that needs no mtl_hf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf export-head`."""
    parser.description = (
        "Write the encoder and one head to a folder that AutoModelForSequenceClassification or"
        " AutoModelForTokenClassification loads, with the same labels and logits; if the stock class cannot compute"
        " the head, the error explains why. Stock pipelines split words as the tokenizer does, so entity boundaries at"
        " punctuation may differ from `mtl-hf predict`; the text-classification pipeline truncates long texts only"
        " with truncation=True."
    )
    parser.add_argument("model", help="a run folder, a checkpoint-N in it, or a Hub id")
    parser.add_argument("task", help="name of the head")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new or empty folder")


def run(arguments: argparse.Namespace) -> None:
    """Write the head."""
    from ..inference.export import export_head

    export_head(arguments.model, arguments.task, arguments.to)
