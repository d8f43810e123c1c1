"""Write an imbalanced copy of `tweeteval_emotion`: a fixed sample of training rows, and all other rows.

The rarest label gets a twentieth of the rows of the most frequent one, and the second rarest twice as many as that.

    mtl-hf data tweeteval_emotion --to data
    python benchmarks/imbalanced_rows.py --data data --to data/imbalanced
"""

import argparse
import collections
import json
import random
import shutil
from pathlib import Path

NAME = "tweeteval_emotion"


def keep_rows(labels: list[str], ratio: int = 20, seed: int = 13) -> list[int]:
    """Choose the rows of an imbalanced sample, in order.

    Args:
        labels: The label of each row.
        ratio: Rows of the most frequent label for one of the rarest.
        seed: Seed of the sample.
    """
    counts = collections.Counter(labels).most_common()
    most = counts[0][1]
    kept = dict(counts) | {counts[-2][0]: 2 * most // ratio, counts[-1][0]: most // ratio}
    order = random.Random(seed).sample(range(len(labels)), len(labels))
    chosen = []
    for row in order:
        if kept[labels[row]] > 0:
            kept[labels[row]] -= 1
            chosen.append(row)
    return sorted(chosen)


def main() -> None:
    """Write the files, and print the rows of each label."""
    parser = argparse.ArgumentParser(description=str(__doc__), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help=f"folder with {NAME}")
    parser.add_argument("--to", type=Path, required=True, help=f"folder for the copy of {NAME}")
    arguments = parser.parse_args()
    lines = (arguments.data / NAME / "train.jsonl").read_text(encoding="utf-8").splitlines()
    labels = [json.loads(line)["label"] for line in lines]
    rows = keep_rows(labels)
    folder = arguments.to / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.jsonl").write_text("".join(f"{lines[row]}\n" for row in rows), encoding="utf-8")
    for split in ("validation", "test"):
        shutil.copyfile(arguments.data / NAME / f"{split}.jsonl", folder / f"{split}.jsonl")
    counts = collections.Counter(labels[row] for row in rows).most_common()
    print(f"{len(rows):,} of {len(labels):,} rows: {', '.join(f'{label} {number:,}' for label, number in counts)}")


if __name__ == "__main__":
    main()
