"""`latentmem bench`: our figures beside those of other programs for the same work, on this machine,
in one run.

workloads.py  what is measured: model, lengths, problems; our side of each row
peers.py      the other side: transformers, TRL, llama.cpp, qdrant
runner.py     the rows and their targets; both sides in turns, each in a process of its own
report.py     medians, ratios, targets; the JSON file, its table and its picture
scale.py      how cost grows
"""

from __future__ import annotations
