"""`latentmem bench`: our figures beside those of other programs for the same work, on this machine,
in one run.

work.py       what is measured: model, lengths, problems
rows.py       the table of rows, with their peers and targets
rollouts.py, distillation.py, search.py, startup.py    our side of each group of rows
peers/        the other side, one file a program; their packages are the extra `bench`, imported
when measured
worker.py     one side of one row in a process of its own
run.py        the rows one after another, both sides in turns, each row written when it is done
report.py     medians, ratios, targets, the JSON file and its table
scale.py      how cost grows, with a picture (figure.py)
"""

from __future__ import annotations
