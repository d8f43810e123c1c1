"""`mtl-hf <verb>`: reads the command line, calls one public function a verb.

Notable: nothing heavy is imported before a verb needs it, so `--help` is quick; a `ValueError` becomes one line.
"""

import argparse
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import __version__
from .config import MaskSecrets, RunConfig, describe, describe_fields, masked, masked_message, masked_overrides
from .experiments.space import Search
from .files import check_file, write_whole

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
  mtl-hf export-head outputs/snips slots --to slots
  mtl-hf embed outputs/snips "a cat sleeps" "a kitten naps" "stocks fell"
  mtl-hf embed outputs/snips --file rows.csv --to rows.parquet --plot rows.png --color label
  mtl-hf export-encoder outputs/snips --to encoder
  mtl-hf merge outputs/strategies/lora --to outputs/merged
  mtl-hf push outputs/snips my-name/snips --dry-run
"""
_MASK = MaskSecrets()


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
    """As `parse_args`, but the items of a list may also come after flags, where argparse takes no more of them.

    A config is followed by `a.b=c` only; models, texts, files and names are any words that do not begin with a dash.
    """
    arguments, rest = parser.parse_known_args(argv)
    place = next(
        (name for name in ("models", "texts", "files", "names", "overrides") if hasattr(arguments, name)), None
    )
    unknown = [text for text in rest if text.startswith("-") or not place or (place == "overrides" and "=" not in text)]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(masked_overrides(unknown))}")
    if place:
        setattr(arguments, place, [*getattr(arguments, place), *rest])
    return arguments


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command in order, as the keyboard's interrupt does."""


def _run(function: Callable[[], None]) -> None:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_MASK)
    logging.getLogger("mtl_hf").setLevel(logging.INFO)
    try:
        with _ended_in_order():
            _hide_bars()
            function()
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
        if os.environ.get("MTL_HF_TRACEBACK"):
            raise
        sys.exit(f"mtl-hf: {masked_message(str(error))}")
    except KeyboardInterrupt as stopped:
        sys.stderr.write("mtl-hf: stopped. (`train` goes on from its newest whole checkpoint with --resume; `compare`"
                         " and `tune` go on when they are started again.)\n")  # fmt: skip
        sys.exit(128 + (signal.SIGTERM if isinstance(stopped, _Terminated) else signal.SIGINT))


def _hide_bars() -> None:
    """Hide transformers' bars over weights; in a file, also those of downloads and of encoding."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        if "transformers" not in sys.modules:  # whose import takes a second, and obeys the second variable
            return
    from huggingface_hub.utils import enable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the Hub's, too
    if sys.stderr.isatty():
        enable_progress_bars()


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM raise an exception in the block, so that locks are released and started processes are ended.

    Not in one of several processes of a launcher (`training/processes.py`), nor outside of the main thread.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    owner = os.getpid()

    def stop(number: int, frame: object) -> None:
        if os.getpid() != owner:  # a worker that was forked, and is to end at once
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mtl-hf",
        description="Multi-task fine-tuning for Hugging Face: one encoder, many heads, one Trainer.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mtl_hf {__version__}")
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
    evaluate.add_argument(
        "--split",
        choices=["train", "validation", "test"],
        help="default: test, or validation where no source has a test split",
    )
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
    _add_overwrite(evaluate, "replace results that are in --to")
    evaluate.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="also load metrics that are Python files or repositories and that only the model's own config names",
    )
    evaluate.add_argument("--precision", choices=["bf16", "fp16", "fp32"], help="default: as trained")
    evaluate.set_defaults(function=_evaluate)

    compare = verbs.add_parser(
        "compare",
        help="one model for all tasks against one for each, and any other variants, over several seeds",
        description="Train each variant of a config with several seeds, score all on the same test rows, and write a"
        " table (comparison.md, comparison.json) and plots. Variants are each task alone and all together, or sets of"
        " a.b=c changes that a comparison's file names (configs/compare/). A comparison that was stopped goes on.",
    )
    compare.add_argument("config", help="a run's YAML, or a comparison's file")
    _add_overrides(compare, "changes for every run, as data=FOLDER")
    compare.add_argument("--seeds", type=int, metavar="N", help="seeds 13, 14, ... 12 + N (default: the file's, or 3)")
    compare.add_argument("--variants", metavar="FILE", help="a YAML with more variants: name -> list of a.b=c")
    compare.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, which share the threads")
    compare.add_argument("--to", metavar="FOLDER", help="for runs and report (default: outputs/compare/NAME)")
    compare.add_argument("--dry-run", action="store_true", help="check every run up to its first step, then stop")
    compare.add_argument("--no-plot", action="store_true", help="write no plots, which need matplotlib")
    compare.set_defaults(function=_compare)

    tune = verbs.add_parser(
        "tune",
        help="search for the settings with which a config scores best on its validation split",
        description="Train a config with one set of settings after another, chosen by Optuna from a declared space, and"
        " write the best as a config (best.yaml), every trial in a table (trials.csv), and a plot of which settings"
        " mattered. Trials are scored on the validation split and keep no weights: train best.yaml to have a model and"
        " its test scores. A search that was stopped goes on; started several times at once, the processes share it.",
        epilog="\n".join(["fields of the search's file", "---------------------------", *describe_fields(Search)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    tune.add_argument("config", help="a search's file")
    _add_overrides(tune, "changes for every trial, as data=FOLDER")
    tune.add_argument("--trials", type=int, metavar="N", help="trials in all (default: the file's, or 20)")
    tune.add_argument("--to", metavar="FOLDER", help="for trials and results (default: outputs/tune/NAME)")
    tune.add_argument("--dry-run", action="store_true", help="check the file, the data and the config, then stop")
    tune.add_argument("--no-plot", action="store_true", help="draw nothing, which needs matplotlib")
    tune.set_defaults(function=_tune)

    plot = verbs.add_parser(
        "plot",
        help="draw a run's learning rates, losses and validation metrics over its steps",
        description="Draw what a run has logged into plots/ in its folder, as PNG and SVG: the learning rate of each"
        " part, each task's loss in training and on the validation split, its primary metric there, and loss weights"
        " where they move. A run that is not finished is drawn up to its newest checkpoint.",
    )
    plot.add_argument("folder", help="a run's folder, or a checkpoint-N in it")
    plot.set_defaults(function=_plot)

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
        "texts",
        nargs="*",
        default=[],
        help="texts, or pairs with a tab between them (default: --file, or lines of standard input)",
    )
    predict.add_argument(
        "--file", help="rows (.jsonl, .json, .csv, .tsv, .parquet; .conll as in training), or else lines of text"
    )
    predict.add_argument(
        "--text",
        metavar="COLUMN",
        help="the text of rows (FIRST,SECOND for pairs), if not called as usual; without --file the lines of standard"
        " input are then JSON objects",
    )
    predict.add_argument("--to", metavar="FILE", help="default: standard output")
    _add_overwrite(predict, "replace the file in --to")
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
    inspect.add_argument("config", help="a YAML file; or a run's folder, a checkpoint-N in it, or a Hub id")
    _add_overrides(inspect, "changes, as data=FOLDER")
    inspect.add_argument("--rows", type=int, default=3, help="rows a source")
    inspect.add_argument("--split", default="train", choices=["train", "validation", "test"])
    inspect.set_defaults(function=_inspect)

    embed = verbs.add_parser(
        "embed",
        help="sentence embeddings: a cosine table, a file of them, a picture",
        description="Turn sentences into vectors: shown as a table of cosines, written with --to, drawn with --plot.",
    )
    embed.add_argument("model", help="a run's folder, a Hub id, or package:<python package>/<folder>")
    embed.add_argument("texts", nargs="*", default=[], help="sentences (default: --file, or lines of stdin)")
    embed.add_argument("--file", help="rows (.jsonl, .json, .csv, .tsv, .parquet), or a text file, one text a line")
    embed.add_argument("--samples", action="store_true", help="twelve sentences of four themes that come with us")
    embed.add_argument("--text", metavar="COLUMN", help="the texts of --file, if not called as usual")
    embed.add_argument("--to", metavar="FILE", help=".parquet (columns of --file and `embedding`) or .npy")
    embed.add_argument("--normalize", action="store_true", help="scale each embedding to length 1")
    embed.add_argument("--pooling", help="mean, cls, max, ... (default: the model's)")
    embed.add_argument("--batch-size", type=int, default=32)
    embed.add_argument("--plot", action="append", default=[], metavar="FILE", help="a picture: .png or .svg, or twice")
    embed.add_argument("--projection", choices=["pca", "tsne"], help="how vectors become points (default: pca)")
    embed.add_argument("--color", metavar="COLUMN", help="a label of each text, to colour points by")
    embed.add_argument("--sample", type=int, metavar="N", help="draw at most N texts (default: 5000)")
    embed.add_argument("--overwrite", action="store_true", help="replace files that are there")
    embed.set_defaults(function=_embed)

    export_encoder = verbs.add_parser(
        "export-encoder",
        help="the encoder alone, for AutoModel and sentence-transformers",
        description="Write the encoder with its tokenizer and pooling as a folder that AutoModel, SentenceTransformer"
        " and `model.encoder` of a config load, with the embeddings of `mtl-hf embed`.",
    )
    export_encoder.add_argument("model", help="a run's folder, a checkpoint-N in it, or a Hub id")
    export_encoder.add_argument("--to", required=True, metavar="FOLDER", help="a new folder, or an empty one")
    export_encoder.add_argument("--pooling", choices=["mean", "cls", "max"], help="default: the model's")
    export_encoder.add_argument(
        "--normalize", action="store_true", help="SentenceTransformer gives vectors of length 1"
    )
    export_encoder.set_defaults(function=_export_encoder)

    merge = verbs.add_parser(
        "merge",
        help="a plain model of one with adapters",
        description="Write a model whose adapters are part of the encoder's weights: no peft needed, the same"
        " answers to rounding (under bf16 a score may move by a row).",
    )
    merge.add_argument("model", help="a run's folder, a checkpoint-N in it, or a Hub id")
    merge.add_argument("--to", required=True, metavar="FOLDER", help="a new folder, or an empty one")
    merge.add_argument("--task", help="with an adapter a task: whose; only heads that read with it are kept")
    merge.set_defaults(function=_merge)

    push = verbs.add_parser("push", help="send a saved model to the Hub, with its code, card and scores")
    push.add_argument("model", help="a run's folder, or a checkpoint-N in it")
    push.add_argument("repo", help="owner/name, or a name of your own; made if there is none")
    push.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    push.add_argument("--revision", help="branch, made if there is none (default: main)")
    push.add_argument("--dry-run", action="store_true", help="list what would be sent, then stop")
    push.set_defaults(function=_push)

    init = verbs.add_parser(
        "init",
        help="look at data files and write a config that trains on them",
        description="Look at files of rows and write a commented YAML: which are splits of one source (train, dev, test"
        " in the name), what is text, what are labels and of which task type, what is left out and why.",
    )
    init.add_argument(
        "files", nargs="+", metavar="FILE", help=".jsonl, .json, .csv, .tsv, .parquet or CoNLL; or a folder of such"
    )
    init.add_argument("--to", default="config.yaml", metavar="YAML", help="the file to write (default: config.yaml)")
    init.add_argument("--text", metavar="COLUMN", help="the text (FIRST,SECOND for pairs), if that is not clear")
    init.add_argument(
        "--label", action="append", default=[], metavar="COLUMN[=TYPE]",
        help="a label column, and perhaps its task type; the others of its file are then left out",
    )  # fmt: skip
    init.add_argument("--sep", metavar="CHARACTER", help="what separates columns of .csv (default: what is found)")
    init.add_argument("--encoder", help="default: all-MiniLM-L6-v2")
    init.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    init.set_defaults(function=_init)

    data = verbs.add_parser("data", help="download public data sets from pinned origins and check them")
    data.add_argument("names", nargs="*", help="data sets (default: list them)")
    data.add_argument("--to", default="data", help="folder (default: data)")
    data.set_defaults(function=_data)
    return parser


def _add_overrides(parser: argparse.ArgumentParser, meaning: str) -> None:
    # Without a default argparse says that a list which may be empty is required.
    parser.add_argument("overrides", nargs="*", default=[], metavar="a.b=c", help=meaning)


def _add_overwrite(parser: argparse.ArgumentParser, meaning: str) -> None:
    parser.add_argument("--overwrite", action="store_true", help=meaning)


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a YAML file")
    _add_overrides(parser, "changes, as training.learning_rate=1e-4")
    parser.add_argument("--dry-run", action="store_true", help="do everything up to the first step, then stop")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that output_dir holds")
    parser.add_argument("--resume", action="store_true", help="go on from the newest whole checkpoint in output_dir")
    parser.set_defaults(function=_train)


def _train(arguments: argparse.Namespace) -> None:
    config = RunConfig.load(arguments.config, arguments.overrides)  # a mistake is answered before the slow imports
    from .run import train

    options = {name: getattr(arguments, name) for name in ("dry_run", "overwrite", "resume")}
    results = train(config, **options)
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
        overwrite=arguments.overwrite,
        trust_remote_code=arguments.trust_remote_code,
    )
    if PartialState().is_main_process:
        _say(scores_table(results) if len(models) == 1 else comparison_table(results))


def _compare(arguments: argparse.Namespace) -> None:
    from .experiments.compare import compare
    from .experiments.compare_report import comparison_markdown

    result = compare(
        arguments.config,
        arguments.overrides,
        seeds=arguments.seeds,
        variants=arguments.variants,
        to=arguments.to,
        jobs=arguments.jobs,
        dry_run=arguments.dry_run,
        plot=not arguments.no_plot,
    )
    if arguments.dry_run:
        for name, steps in result["steps"].items():
            _say(f"{name:<40}{steps:>10,} steps")
    else:
        _say(comparison_markdown(result))


def _tune(arguments: argparse.Namespace) -> None:
    from .experiments.tune import tune

    result = tune(
        arguments.config,
        arguments.overrides,
        trials=arguments.trials,
        to=arguments.to,
        dry_run=arguments.dry_run,
        plot=not arguments.no_plot,
    )
    if arguments.dry_run:
        _say(f"{result['trials']} trials, compared by {result['metric']} on the validation split")
        _say(f"sampler: {result['sampler']}; pruning: {'on' if result['prune'] else 'off'}; into {result['folder']}")
        for name, value in result["space"].items():
            _say(f"  {name}: {value}")
        return
    from .experiments.search_report import search_table

    _say(search_table(result))
    if result["config"]:
        _say(f"\nmtl-hf train {shlex.quote(result['config'])}")


def _plot(arguments: argparse.Namespace) -> None:
    from .evaluation.run_plots import plot_run

    plot_run(arguments.folder)


def _export_head(arguments: argparse.Namespace) -> None:
    from .inference.export import export_head

    export_head(arguments.model, arguments.task, arguments.to)


def _top_k(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor `all`")
    return int(text)


def _predict(arguments: argparse.Namespace) -> None:
    from .inference.predict import predict

    names = ("texts", "file", "text", "to", "heads", "top_k", "embeddings", "batch_size", "overwrite")
    predict(arguments.model, **{name: getattr(arguments, name) for name in names})


def _inspect(arguments: argparse.Namespace) -> None:
    config, overrides = arguments.config, arguments.overrides
    if os.path.isfile(config):
        config, overrides = RunConfig.load(config, overrides), []  # a mistake is answered before the slow imports
    from .inference.inspect import inspect_rows

    _say(inspect_rows(config, overrides, num_rows=arguments.rows, split=arguments.split))


def _embed(arguments: argparse.Namespace) -> None:
    import torch
    from datasets import Dataset

    from .data.describe_file import TEXT_COLUMNS
    from .data.files import has_rows, is_conll
    from .data.sources import load_file
    from .inference.embed import cosine_table, embed, sample_sentences, text_column

    drawing = {name: getattr(arguments, name) for name in ("projection", "color", "sample")}
    drawing = {name: value for name, value in drawing.items() if value is not None}
    if drawing and not arguments.plot:
        raise ValueError(f"`--{next(iter(drawing))}` is for a picture: say where with `--plot`.")
    if arguments.samples:
        if arguments.texts or arguments.file:
            raise ValueError("give texts, `--file` or `--samples`, not several.")
        rows = sample_sentences()
        drawing = {"color": "theme"} | drawing
    elif arguments.file and not arguments.texts and (has_rows(arguments.file) or is_conll(arguments.file)):
        rows = load_file(arguments.file, as_text=[arguments.text] if arguments.text else TEXT_COLUMNS)
    else:
        rows = Dataset.from_dict({"text": list(_texts(arguments))})
    written = arguments.to or arguments.plot
    if not written and len(rows) > 30:
        raise ValueError(
            f"there are {len(rows)} texts, too many for a table: say what to write with `--to` or `--plot`."
        )
    embeddings = embed(
        arguments.model,
        rows,
        text=arguments.text,
        to=arguments.to,
        plots=arguments.plot,
        overwrite=arguments.overwrite,
        batch_size=arguments.batch_size,
        normalize=arguments.normalize,
        pooling=arguments.pooling,
        show_progress=len(rows) > 256 and sys.stderr.isatty(),
        **drawing,
    )
    if not written:
        _say(cosine_table(rows[text_column(rows, arguments.text)], torch.from_numpy(embeddings)))


def _export_encoder(arguments: argparse.Namespace) -> None:
    from .inference.export_encoder import export_encoder

    export_encoder(arguments.model, arguments.to, pooling=arguments.pooling, normalize=arguments.normalize)


def _merge(arguments: argparse.Namespace) -> None:
    from .inference.merge import merge_adapters

    merge_adapters(arguments.model, arguments.to, task=arguments.task)


def _push(arguments: argparse.Namespace) -> None:
    from .hub.push import push

    push(
        arguments.model,
        arguments.repo,
        private=arguments.private,
        revision=arguments.revision,
        dry_run=arguments.dry_run,
    )


def _init(arguments: argparse.Namespace) -> None:
    to = Path(arguments.to)
    check_file(to, "--to", overwrite=arguments.overwrite)
    import datasets

    from .data.draft import draft_config

    datasets.disable_progress_bars()
    written = draft_config(
        arguments.files,
        name=to.stem,
        text=arguments.text,
        labels=arguments.label,
        sep=arguments.sep,
        encoder=arguments.encoder,
        ask=_ask if sys.stdin.isatty() else None,
    )
    write_whole(to, written)
    _say(f"{written}\nWritten to {to}. Next: mtl-hf train {shlex.quote(str(to))}")


def _ask(question: str, options: Sequence[str]) -> str:
    """Ask on the terminal until the answer is one of the options, or its number."""
    _say(question)
    for number, option in enumerate(options, start=1):
        _say(f"  {number}  {option}")
    while True:
        answer = input("> ").strip()
        if answer in options:
            return answer
        if answer.isdecimal() and 0 < int(answer) <= len(options):
            return options[int(answer) - 1]


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
    from .data.files import read_lines

    return list(read_lines(arguments.file))


def _say(text: str) -> None:
    sys.stdout.write(masked(text) + "\n")
