"""Measure whether a memory learns. Every command may be killed and run again: what is done is not
repeated. `--data FOLDER` holds multiarith.jsonl and gsm8k_test.jsonl, each line a problem with its
answer. `--work` keeps traces and states between commands, `--results` what is committed.

These make the committed results, in this order:

python -m tests.tools.measure_learning sample zero_shot multiarith:train:0:100 8
python -m tests.tools.measure_learning every multiarith:train:0:100 --most 36
python -m tests.tools.measure_learning states multiarith:train:0:100
python -m tests.tools.measure_learning sample alone multiarith:confirm:0:150 4
python -m tests.tools.measure_learning judge alone multiarith:confirm:0:150
python -m tests.tools.measure_learning same kv-distil multiarith:train:0:100 --loss distil

The memory of the families. A system is `alone`, `shown` (own attempts in context), `no_code` (one
more sentence in the instruction) or the name of a memory:

python -m tests.tools.measure_learning families learn alone 8
python -m tests.tools.measure_learning families learn shown 4 --seed 5
python -m tests.tools.measure_learning distil_context first --rate 0.004 --steps 24
python -m tests.tools.measure_learning families confirm first 4
python -m tests.tools.measure_learning families_report first

The recipe `fast`: memory after memory, each asked on its own problem, on a neighbour and on another family's:

python -m tests.tools.measure_learning winners --most 16 --minutes 90

A soft prompt for each of three families. A system is `own`, `deranged` (the next family's) or `untrained`:

python -m tests.tools.measure_learning distil_families
python -m tests.tools.measure_learning families confirm own 4
python -m tests.tools.measure_learning prompts_report

Arms, seeds and controls at full size on a GPU, twelve minutes; once more to go on:

python -m tests.tools.measure_learning --rows 1024 gpu
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

from latentmem.records import LatentmemError
from tests.tools.learning import commands, gpu
from tests.tools.learning.families import PARTS
from tests.tools.learning.plan import Plan


def parser() -> argparse.ArgumentParser:
    """All commands; each sets `run` to its function in `learning.commands`."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, default=Path("."), help="folder of the data sets")
    made.add_argument("--work", type=Path, default=Path.home() / ".cache/latentmem-learning")
    made.add_argument("--results", type=Path, default=Path("assets/results/learning"))
    made.add_argument("--rows", type=int, default=64, help="of a batch of rollouts")
    under = made.add_subparsers(required=True, metavar="command")
    for add in (_sampling, _gradients, _critic, _training, _families, _winners, _gpu):
        add(under)
    return made


def _sampling(under: argparse._SubParsersAction) -> None:
    sample = under.add_parser("sample", help="traces of the model alone")
    sample.set_defaults(run=commands.sample)
    sample.add_argument("system", help="under what name")
    sample.add_argument("problems", help="set:part, or a slice of it as multiarith:train:0:100")
    sample.add_argument("traces", type=int)
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--whole", action="store_true", help="go on after the box has closed")
    evaluate = under.add_parser("evaluate", help="traces with trained memories")
    evaluate.set_defaults(run=commands.evaluate)
    evaluate.add_argument("names", nargs="+", help="as in results/memories")
    evaluate.add_argument("--problems", default="multiarith:dev")
    evaluate.add_argument("--traces", type=int, default=8)
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--untrained", action="store_true", help="as they were before training")
    compare = under.add_parser("compare", help="paired differences of mean accuracy")
    compare.set_defaults(run=commands.compare)
    compare.add_argument("systems", nargs="+", help="each against the first")
    compare.add_argument("--problems", default="multiarith:dev")


def _gradients(under: argparse._SubParsersAction) -> None:
    every = under.add_parser("every", help="gradients of all forms at their start, and cosines")
    every.set_defaults(run=commands.every)
    every.add_argument("problems")
    every.add_argument("--most", type=int, default=20, help="lessons")
    every.add_argument("--signals", nargs="*", default=["policy", "distil"])
    gap = under.add_parser("gap", help="log-probabilities as sampled and as trained")
    gap.set_defaults(run=commands.gap)
    gap.add_argument("problems")


def _critic(under: argparse._SubParsersAction) -> None:
    states = under.add_parser("states", help="the hidden states of the lessons' traces")
    states.set_defaults(run=commands.states)
    states.add_argument("problems")
    states.add_argument("--gradients", action="store_true", help="of the critic's advantages, too")
    judge = under.add_parser("judge", help="the critic of the lessons on the model's own traces")
    judge.set_defaults(run=commands.judged)
    judge.add_argument("system", help="whose traces, as `alone`")
    judge.add_argument("problems")
    judge.add_argument("--taught", default="multiarith:train:0:100")


def _training(under: argparse._SubParsersAction) -> None:
    train = under.add_parser("train", help="one memory on all problems that pass the gate")
    train.set_defaults(run=commands.train)
    train.add_argument("--marks", type=int, nargs="*", default=[], help="steps to keep, too")
    same = under.add_parser("same", help="a memory for each problem, on that same problem")
    same.set_defaults(run=commands.same_problem)
    same.add_argument("--fresh-traces", type=int, default=16)
    for one in (train, same):
        one.add_argument("name")
        one.add_argument("problems", help="their zero_shot traces have been sampled")
        one.add_argument("--most", type=int, default=48, help="problems to learn from")
        for field in fields(Plan):
            kind = type(field.default)
            how = {"type": kind, "default": field.default}
            flag = f"--{field.name.replace('_', '-')}"
            one.add_argument(flag, **({"action": "store_true"} if kind is bool else how))


def _families(under: argparse._SubParsersAction) -> None:
    families = under.add_parser("families", help="traces of a part of the families")
    families.set_defaults(run=commands.families)
    families.add_argument("part", choices=PARTS)
    families.add_argument("system")
    families.add_argument("traces", type=int)
    families.add_argument("--seed", type=int, default=0)
    distil = under.add_parser("distil_context", help="one memory of all families")
    distil.set_defaults(run=commands.distil_context)
    distil.add_argument("name")
    distil.add_argument("--rate", type=float, required=True)
    distil.add_argument("--steps", type=int, required=True)
    distil.add_argument("--start", type=Path, help="a memory to go on from")
    prompts = under.add_parser("distil_families", help="a soft prompt for each of three families")
    prompts.set_defaults(run=commands.distil_families)
    compared = under.add_parser("prompts_report", help="those against their controls")
    compared.set_defaults(run=commands.prompts_report)
    compared.add_argument("--part", choices=PARTS, default="confirm")
    report = under.add_parser("families_report", help="a memory against the model alone")
    report.set_defaults(run=commands.families_report)
    report.add_argument("name")
    report.add_argument("--part", choices=PARTS, default="confirm")


def _winners(under: argparse._SubParsersAction) -> None:
    winners = under.add_parser("winners", help="memories of the recipe `fast`, and their figures")
    winners.set_defaults(run=commands.of_winners)
    winners.add_argument("--most", type=int, default=16, help="memories")
    winners.add_argument("--minutes", type=float, default=90.0)


def _gpu(under: argparse._SubParsersAction) -> None:
    full = under.add_parser("gpu", help="arms, seeds and controls at full size within a time")
    full.set_defaults(run=gpu.run)
    full.add_argument("--model", default="qwen2.5-coder-0.5b")
    full.add_argument("--minutes", type=float, default=12.0)
    full.add_argument("--seeds", type=int, default=gpu.SEEDS)
    full.add_argument("--steps", type=int, default=gpu.STEPS)
    full.add_argument("--families", type=int, help="so many of them, to try it on a CPU")
    full.add_argument("--most", type=int, help="problems of each")


def main() -> None:
    given = parser().parse_args()
    try:
        given.run(given)
    except LatentmemError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
