"""`mtl-hf <verb>`: one file per verb, with its arguments and the one public function that it calls.

Notable: heavy packages are imported by the verb that needs them, so `--help` is fast.
"""

import argparse
from collections.abc import Sequence
from types import ModuleType

from .. import __version__
from ..command import parse, run_command
from . import (
    compare,
    data,
    embed,
    evaluate,
    export,
    export_encoder,
    export_head,
    init,
    inspect,
    merge,
    plot,
    predict,
    push,
    serve,
    train,
    tune,
)

# In the order of the help.
VERBS: tuple[ModuleType, ...] = (
    train, evaluate, compare, tune, plot, predict, serve, export, export_head, inspect, embed, export_encoder, merge,
    push, init, data,
)  # fmt: skip
_EXAMPLES = """examples:
  mtl-hf init reviews.csv tickets.csv --to config.yaml
  mtl-hf data snips --to data
  mtl-hf inspect configs/snips.yaml
  mtl-hf train configs/snips.yaml training.num_train_epochs=3
  mtl-hf evaluate outputs/snips --split test
  mtl-hf evaluate outputs/snips outputs/snips-2 me/model --to comparison
  mtl-hf evaluate me/model --data rows.csv --text review --label sentiment=stars
  mtl-hf compare configs/snips.yaml --seeds 3 --jobs 2
  mtl-hf tune configs/tune/snips.yaml --trials 40
  mtl-hf plot outputs/snips
  mtl-hf predict outputs/snips "play some jazz in the kitchen"
  mtl-hf predict outputs/snips --file texts.csv --text utterance --to answers.jsonl
  mtl-hf serve outputs/snips --port 8000
  mtl-hf export outputs/snips --format onnx --to snips-onnx
  mtl-hf export-head outputs/snips slots --to slots
  mtl-hf embed outputs/snips "a cat sleeps" "a kitten naps" "stocks fell"
  mtl-hf embed outputs/snips --file rows.csv --to rows.parquet --plot rows.png --color label
  mtl-hf export-encoder outputs/snips --to encoder
  mtl-hf merge outputs/strategies/lora --to outputs/merged
  mtl-hf push outputs/snips my-name/snips --dry-run
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The console script `mtl-hf`."""
    arguments = parse(_parser(), argv)
    run_command(lambda: arguments.run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtl-hf",
        description="Multi-task fine-tuning for Hugging Face: one encoder, many heads, one Trainer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mtl_hf {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        name = verb.__name__.rpartition(".")[2].replace("_", "-")
        of_verb = verbs.add_parser(name, help=verb.HELP)
        verb.add_arguments(of_verb)
        of_verb.set_defaults(run=verb.run)
    return parser
