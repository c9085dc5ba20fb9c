"""How the words of a text are distributed: `zipf.py COUNTS` reads lines `COUNT WORD`, most frequent first."""

import json
import math
import sys

with open(sys.argv[1], encoding="utf-8") as lines:
    counts = [int(line.split()[0]) for line in lines]

total = sum(counts)
# least squares of log(count) over log(rank): Zipf's law says -1
points = [(math.log(rank), math.log(count)) for rank, count in enumerate(counts, 1)]
mean_x = sum(x for x, _ in points) / len(points)
mean_y = sum(y for _, y in points) / len(points)
slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
entropy = -sum(count / total * math.log2(count / total) for count in counts)

with open("curve.tsv", "w", encoding="utf-8") as curve:
    seen = 0
    for rank, count in enumerate(counts, 1):
        seen += count
        curve.write(f"{rank}\t{count}\t{seen / total:.6f}\n")

with open("metrics.json", "w", encoding="utf-8") as metrics:
    json.dump({"words": total, "distinct": len(counts), "zipf-slope": slope, "entropy-bits": entropy}, metrics)
