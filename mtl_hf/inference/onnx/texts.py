"""Real texts to compare an exported model with its model: validation rows of the run, or sentences of the package."""

import copy
import itertools
import logging
from collections.abc import Sequence
from typing import Any

from ...config import RunConfig
from ...data.sources import load_sources
from ...modeling.encoding import CHOICES, KINDS, PAIRS
from ...saved.models import Checkpoint
from ...saved.runs import check_saved_run
from ..embed import sample_sentences

logger = logging.getLogger(__name__)

MOST_TEXTS = 256  # of a source


def real_texts(checkpoint: Checkpoint, overrides: Sequence[str] = ()) -> tuple[list[Any], str]:
    """Texts of all kinds that the heads read, and where they come from.

    Args:
        checkpoint: The model.
        overrides: `a.b=c` changes to the config of its run.

    Raises:
        ValueError: There are overrides, but the data cannot be read.
    """
    samples = [str(text) for text in sample_sentences()["text"]]
    pairs = list(itertools.pairwise(samples))
    kinds = {KINDS[spec["text"]] for spec in checkpoint.heads.values()}
    own: list[Any] = [*samples]
    own += pairs if PAIRS in kinds else []
    own += [(text, [*pair]) for text, pair in zip(samples, pairs, strict=False)] if CHOICES in kinds else []
    if checkpoint.run is None:
        if overrides:
            raise ValueError(f"{checkpoint.name} has no run.yaml that these overrides could change: remove them.")
        return own, "sentences of mtl_hf, since the model has no run.yaml"
    try:
        run = copy.deepcopy(RunConfig.load(checkpoint.run, overrides))
        check_saved_run(run, checkpoint.run)
        sources = load_sources(run, ["validation", "train"])
    except (ValueError, OSError) as error:
        if overrides:
            raise
        logger.warning("The data of the run cannot be read, so the exported model is compared on sentences of mtl_hf."
                       " Name its place, such as `data=FOLDER`. (%s)", " ".join(str(error).split()))  # fmt: skip
        return own, "sentences of mtl_hf, since the data of the run cannot be read"
    found: list[Any] = []
    unsplit = [name for name, source in sources.items() if "validation" not in source.splits]
    for name, source in sources.items():
        split = "train" if name in unsplit else "validation"
        found += source.texts(split, range(min(MOST_TEXTS, len(source.splits[split]))))
    trained = f", and training rows of {', '.join(unsplit)}" if unsplit else ""
    return found, f"validation rows of the run{trained}"
