"""`mtl-hf <verb>`: reads the command line, calls one public function a verb.

Notable: nothing heavy is imported before a verb needs it, so `--help` is quick; a `ValueError` becomes one line.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .config import describe

_EXAMPLES = """examples:
  mtl-hf data snips --to data
  mtl-hf inspect configs/snips.yaml
  mtl-hf train configs/snips.yaml training.num_train_epochs=3
  mtl-hf evaluate outputs/snips --split test
  mtl-hf evaluate outputs/snips outputs/snips-2 me/model --to comparison
  mtl-hf evaluate me/model --data rows.csv --text review --label sentiment=stars
  mtl-hf predict outputs/snips "play some jazz in the kitchen"
  mtl-hf predict outputs/snips --file texts.csv --text utterance --to answers.jsonl
  mtl-hf export-head outputs/snips slots --to slots
  mtl-hf embed outputs/snips "a cat sleeps" "a kitten naps" "stocks fell"
  mtl-hf push outputs/snips my-name/snips --dry-run
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The console script `mtl-hf`."""
    arguments = _parse(_parser(), argv)
    _run(lambda: arguments.function(arguments))


def main_train(argv: Sequence[str] | None = None) -> None:
    """`run_multitask.py` and `python -m mtl_hf.run`: the verb `train` without its name."""
    parser = argparse.ArgumentParser(
        description="Train one encoder with several task heads from one YAML, score it and save it.",
        epilog=f"fields of the YAML\n------------------\n{describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_train(parser)
    arguments = _parse(parser, argv)
    _run(lambda: arguments.function(arguments))


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """As `parse_args`, but `a.b=c` may also come after flags, where argparse takes no more of a list."""
    arguments, rest = parser.parse_known_args(argv)
    place = next((name for name in ("models", "overrides") if hasattr(arguments, name)), None)
    if unknown := [text for text in rest if not place or "=" not in text or text.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if place:
        setattr(arguments, place, [*getattr(arguments, place), *rest])
    return arguments


def _run(function: Callable[[], None]) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("mtl_hf").setLevel(logging.INFO)
    try:
        function()
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        if os.environ.get("MTL_HF_TRACEBACK"):
            raise
        sys.exit(f"mtl-hf: {error}")
    except KeyboardInterrupt:
        sys.exit("mtl-hf: stopped. (A training run goes on from its newest whole checkpoint with --resume.)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtl-hf",
        description="Multi-task fine-tuning for Hugging Face: one encoder, many heads, one Trainer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    train = verbs.add_parser(
        "train",
        help="train, score and save one model",
        description="Train one encoder with several task heads from one YAML, score it and save it.",
        epilog=f"fields of the YAML\n------------------\n{describe()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_train(train)

    evaluate = verbs.add_parser(
        "evaluate",
        help="score one saved model, or several side by side",
        description="Score saved models: a table, metrics.json and predictions.jsonl; of several models one table with"
        " differences to the first, comparison.json and comparison.csv.",
    )
    evaluate.add_argument(
        "models",
        nargs="+",
        metavar="MODEL | a.b=c",
        help="runs' folders, checkpoint-N in them or Hub ids (me/model, me/model@revision); changes to the config, as"
        " data=FOLDER (a folder with such a name: ./a=b)",
    )
    evaluate.add_argument("--split", default="test", choices=["train", "validation", "test"])
    evaluate.add_argument("--config", help="what to score on (default: the config of the first model's run)")
    evaluate.add_argument("--data", metavar="FILE", help="rows to score on: .jsonl, .json, .csv, .tsv or .parquet")
    evaluate.add_argument("--text", metavar="COLUMN", help="its text (FIRST,SECOND for pairs), if not called as usual")
    evaluate.add_argument(
        "--label", action="append", default=[], metavar="HEAD=COLUMN", help="a head's labels in it, if not called so"
    )
    evaluate.add_argument(
        "--to", metavar="FOLDER", help="for the results (default: evaluation/SPLIT, of one model in its folder)"
    )
    evaluate.add_argument("--batch-size", type=int, default=64)
    evaluate.add_argument("--precision", choices=["bf16", "fp16", "fp32"], help="default: as trained")
    evaluate.set_defaults(function=_evaluate)

    export_head = verbs.add_parser(
        "export-head",
        help="one head as a stock transformers model, for those who have not this package",
        description="Write one head with the encoder as a folder that AutoModelForSequenceClassification or"
        " AutoModelForTokenClassification loads, with the same labels and logits, or say why it cannot be held there."
        " Stock pipelines split words as the tokenizer does, so entities may end elsewhere at punctuation than those of"
        " `mtl-hf predict`, and the one for text classification cuts long texts only with truncation=True.",
    )
    export_head.add_argument("model", help="a run's folder, a checkpoint-N in it, or a Hub id")
    export_head.add_argument("task", help="the head")
    export_head.add_argument("--to", required=True, metavar="FOLDER", help="a new folder, or an empty one")
    export_head.set_defaults(function=_export_head)

    predict = verbs.add_parser(
        "predict",
        help="answer raw text from every head, as JSON lines",
        description="Answer raw text from every head: a JSON line a text, in their order, written as they come.",
    )
    predict.add_argument("model", help="a run's folder, a checkpoint-N in it, or a Hub id")
    predict.add_argument(
        "texts", nargs="*", help="texts, or pairs with a tab between them (default: --file, or lines of standard input)"
    )
    predict.add_argument("--file", help="rows (.jsonl, .json, .csv, .tsv, .parquet), or else lines of text")
    predict.add_argument(
        "--text",
        metavar="COLUMN",
        help="the text of rows (FIRST,SECOND for pairs), if not called as usual; without --file the lines of standard"
        " input are then JSON objects",
    )
    predict.add_argument("--to", metavar="FILE", help="default: standard output")
    predict.add_argument("--heads", nargs="+", help="only these heads")
    predict.add_argument(
        "--top-k", type=_top_k, default=1, metavar="K", help="labels a text: a number, or all (default: the best)"
    )
    predict.add_argument("--embeddings", action="store_true", help="the text's embedding, too")
    predict.add_argument(
        "--batch-size", type=int, default=32, help="1 answers each line as it comes, without waiting for others"
    )
    predict.set_defaults(function=_predict)

    inspect = verbs.add_parser("inspect", help="show rows of each task as the model will see them")
    inspect.add_argument("config")
    inspect.add_argument("overrides", nargs="*", metavar="a.b=c")
    inspect.add_argument("--rows", type=int, default=3, help="rows a source")
    inspect.add_argument("--split", default="train", choices=["train", "validation", "test"])
    inspect.set_defaults(function=_inspect)

    embed = verbs.add_parser("embed", help="sentence embeddings: a cosine table, or a file of them")
    embed.add_argument("model", help="a run's folder, a Hub id, or package:<python package>/<folder>")
    embed.add_argument("texts", nargs="*", help="sentences to compare")
    embed.add_argument("--file", help="a text file, one text a line")
    embed.add_argument("--to", help="an .npy file for the embeddings")
    embed.add_argument("--normalize", action="store_true", help="scale each embedding to length 1")
    embed.add_argument("--pooling", choices=["mean", "cls", "max"], help="default: the model's")
    embed.add_argument("--batch-size", type=int, default=32)
    embed.set_defaults(function=_embed)

    push = verbs.add_parser("push", help="send a saved model to the Hub, with its code, card and scores")
    push.add_argument("model", help="a run's folder, or a checkpoint-N in it")
    push.add_argument("repo", help="owner/name, or a name of your own; made if there is none")
    push.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    push.add_argument("--revision", help="branch, made if there is none (default: main)")
    push.add_argument("--dry-run", action="store_true", help="list what would be sent, then stop")
    push.set_defaults(function=_push)

    data = verbs.add_parser("data", help="download public data sets from pinned origins and check them")
    data.add_argument("names", nargs="*", help="data sets (default: list them)")
    data.add_argument("--to", default="data", help="folder (default: data)")
    data.set_defaults(function=_data)
    return parser


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="changes, as training.learning_rate=1e-4")
    parser.add_argument("--dry-run", action="store_true", help="do everything up to the first step, then stop")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that output_dir holds")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in output_dir")
    parser.set_defaults(function=_train)


def _train(arguments: argparse.Namespace) -> None:
    from .run import train

    options = {name: getattr(arguments, name) for name in ("dry_run", "overwrite", "resume")}
    results = train(arguments.config, arguments.overrides, **options)
    if results.get("pushed", "") is None:  # why, has been logged
        sys.exit(1)


def _evaluate(arguments: argparse.Namespace) -> None:
    from accelerate import PartialState

    from .evaluation.evaluate import evaluate
    from .evaluation.report import comparison_table, scores_table

    overrides = [text for text in arguments.models if re.match(r"[A-Za-z_][\w-]*(\.[\w-]+)*=", text)]
    models = [text for text in arguments.models if text not in overrides]
    if not models:
        raise ValueError(f"there is no model to score among {', '.join(overrides)}: name a run's folder first.")
    for text in arguments.label:
        if not all(text.partition("=")):
            raise ValueError(f"`--label` is {text!r}; it is HEAD=COLUMN, as in sentiment=stars.")
    results = evaluate(
        models,
        split=arguments.split,
        config=arguments.config,
        overrides=overrides,
        data=arguments.data,
        text=arguments.text,
        labels=dict(text.split("=", 1) for text in arguments.label),
        to=arguments.to,
        batch_size=arguments.batch_size,
        precision=arguments.precision,
    )
    if PartialState().is_main_process:
        _say(scores_table(results) if len(models) == 1 else comparison_table(results))


def _export_head(arguments: argparse.Namespace) -> None:
    from .inference.export import export_head

    export_head(arguments.model, arguments.task, arguments.to)


def _top_k(text: str) -> int | None:
    return None if text == "all" else int(text)


def _predict(arguments: argparse.Namespace) -> None:
    from .inference.predict import predict

    names = ("texts", "file", "text", "to", "heads", "top_k", "embeddings", "batch_size")
    predict(arguments.model, **{name: getattr(arguments, name) for name in names})


def _inspect(arguments: argparse.Namespace) -> None:
    from .inference.inspect import inspect_rows

    _say(inspect_rows(arguments.config, arguments.overrides, num_rows=arguments.rows, split=arguments.split))


def _embed(arguments: argparse.Namespace) -> None:
    from .inference.embed import cosine_table, load_model, save_embeddings

    texts = _texts(arguments)
    model = load_model(arguments.model)
    show = len(texts) > 256 and sys.stderr.isatty()
    embeddings = model.encode(
        texts,
        batch_size=arguments.batch_size,
        normalize=arguments.normalize,
        pooling=arguments.pooling,
        show_progress=show,
    )
    _say(f"{embeddings.shape[0]} texts x {embeddings.shape[1]} dimensions")
    if arguments.to:
        save_embeddings(embeddings, Path(arguments.to))
        _say(f"Written to {arguments.to}.")
    else:
        _say(cosine_table(texts, embeddings))


def _push(arguments: argparse.Namespace) -> None:
    from .hub.push import push

    push(
        arguments.model,
        arguments.repo,
        private=arguments.private,
        revision=arguments.revision,
        dry_run=arguments.dry_run,
    )


def _data(arguments: argparse.Namespace) -> None:
    from .data.catalog import CATALOG, download

    if not arguments.names:
        for name, data_set in CATALOG.items():
            _say(f"{name:<20}{data_set.license}")
    for name in arguments.names:
        download(name, arguments.to)


def _texts(arguments: argparse.Namespace) -> list[str]:
    if arguments.texts and arguments.file:
        raise ValueError("give texts or `--file`, not both.")
    if arguments.texts:
        return list(arguments.texts)
    if not arguments.file and sys.stdin.isatty():
        raise ValueError("there is no text: give some, or `--file`, or pipe lines in.")
    data = Path(arguments.file).read_bytes() if arguments.file else sys.stdin.buffer.read()
    texts = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            texts.append(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{arguments.file or 'standard input'}, line {number}: not UTF-8 ({error}).") from None
    return texts


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
