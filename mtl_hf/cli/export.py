"""`mtl-hf export`: export a model as an ONNX graph, which needs neither torch nor transformers."""

import argparse

HELP = "export a model as one ONNX graph, which needs no torch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mtl-hf export`."""
    parser.description = (
        "Write the encoder and all heads as one ONNX graph, with tokenizer and labels. `mtl-hf predict`, `mtl-hf serve`"
        " and mtl_hf.inference.OnnxModel take the folder. The graph is compared with the model on the validation rows"
        " of its run; if they differ, nothing is written."
    )
    parser.add_argument("model", help="a run folder, a checkpoint-N in it, or a Hub id")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the config of its run, such as data=FOLDER"
    )
    parser.add_argument("--to", required=True, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--format", choices=["onnx"], default="onnx", help="default: onnx")
    parser.add_argument(
        "--quantize", choices=["int8"], default="",
        help="compute most layers in 8 bits, if answers on the validation rows of the run stay the same (--max-drop)",
    )  # fmt: skip
    parser.add_argument(
        "--max-drop", type=float, default=0.5, metavar="POINTS",
        help="how many points the score of a task may fall by --quantize; default: 0.5",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Write the graph."""
    from ..inference.onnx.export import export_onnx

    export_onnx(
        arguments.model,
        arguments.to,
        overrides=arguments.overrides,
        quantize=arguments.quantize,
        max_drop=arguments.max_drop,
    )
