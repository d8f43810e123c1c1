"""How well the cosine of two sentences' embeddings ranks the pairs of STS-B, for each pooling.

    python benchmarks/embeddings.py sentence-transformers/all-MiniLM-L6-v2 --data data
    python benchmarks/embeddings.py outputs/embeddings --data data --poolings mean cls

MODEL is a run folder, the folder of an encoder, or a Hub id, so the same command measures before and after fine-tuning.
The results are Spearman's and Pearson's correlation of the cosine with the human score on the split, ×100, with the
95 % percentile bootstrap interval of Spearman's correlation over pairs, and sentences per second.
"""

import argparse
import time

import numpy as np
from scipy.stats import pearsonr, rankdata, spearmanr

from mtl_hf.data.sources import load_file
from mtl_hf.inference.embed import load_model


def bootstrap(first: np.ndarray, second: np.ndarray, draws: int = 1000, seed: int = 13) -> tuple[float, float]:
    """95 % percentile interval of Spearman's correlation over resampled pairs."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = random.integers(len(first), size=len(first))
        found.append(np.corrcoef(rankdata(first[rows]), rankdata(second[rows]))[0, 1])
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Print one line per pooling."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", default="data", help="folder with stsb/ (`mtl-hf data stsb`)")
    parser.add_argument("--split", default="test", choices=["validation", "test"])
    parser.add_argument("--poolings", nargs="+", default=["mean", "cls", "max"])
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    rows = load_file(f"{arguments.data}/stsb/{arguments.split}.jsonl")
    texts, scores = [*rows["text"], *rows["text_pair"]], np.array(rows["score"])
    print(f"{arguments.model}: {len(rows)} pairs of STS-B {arguments.split}")
    print(f"{'pooling':<14}{'Spearman':>9}{'95 % interval':>18}{'Pearson':>9}{'sentences/s':>13}")
    for pooling in arguments.poolings:
        started = time.perf_counter()
        vectors = model.encode(texts, normalize=True, pooling=pooling).numpy()
        speed = len(texts) / (time.perf_counter() - started)
        cosines = (vectors[: len(rows)] * vectors[len(rows) :]).sum(1)
        rank, linear = spearmanr(cosines, scores).statistic, pearsonr(cosines, scores).statistic
        low, high = bootstrap(cosines, scores)
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        print(f"{pooling:<14}{100 * rank:>9.1f}{interval:>18}{100 * linear:>9.1f}{speed:>13.0f}")


if __name__ == "__main__":
    main()
