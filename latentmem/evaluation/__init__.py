"""Does a memory help on problems it has not seen? Data sets, protocols, scores, and the reports
made of them.

A run is a folder: `run.json` (what it is), `results.jsonl` (one line a reply, one a lesson),
`state/` (what each system has learnt). Killed at any point and started again, it goes on and, on a
CPU, ends with the same results; while training the attention of a GPU may add in another order. All
figures are computed from `results.jsonl` afterwards, so a report can always be made again.
"""

from __future__ import annotations
