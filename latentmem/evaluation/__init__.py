"""Does a memory help on problems it has not seen? Data sets, protocols, scores and reports.

A run is a folder: `run.json` (its configuration), `results.jsonl` (one line for each reply and each
lesson), `state/` (what each system has learnt). A run that is killed at any point and started again
continues and, on a CPU, ends with the same results; on a GPU, attention may add in another order
while training. All figures are computed from `results.jsonl` afterwards, so a report can always be
made again.
"""

from __future__ import annotations
