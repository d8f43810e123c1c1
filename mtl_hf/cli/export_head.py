"""`mtl-hf export-head`: one head as a stock transformers model."""

import argparse

HELP = "one head as a stock transformers model, for those who have not this package"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf export-head`."""
    parser.description = (
        "Write one head with the encoder as a folder that AutoModelForSequenceClassification or"
        " AutoModelForTokenClassification loads, with the same labels and logits, or say why it cannot be held there."
        " Stock pipelines split words as the tokenizer does, so entities may end elsewhere at punctuation than those of"
        " `mtl-hf predict`, and the one for text classification cuts long texts only with truncation=True."
    )
    parser.add_argument("model", help="a run's folder, a checkpoint-N in it, or a Hub id")
    parser.add_argument("task", help="the head")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new folder, or an empty one")


def run(arguments: argparse.Namespace) -> None:
    """Write the head."""
    from ..inference.export import export_head

    export_head(arguments.model, arguments.task, arguments.to)
