"""What is measured: the settings of a bench as plain values, and what the measurers of both sides share."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from ..records import LatentmemError, Problem, Trace, Vote

if TYPE_CHECKING:
    from torch import Tensor

    from ..model import LanguageModel

# Problems of different kinds and lengths, so that prompts in one batch are padded as in real use.
PROBLEMS = tuple(Problem(text) for text in (
    "A taxi charges $5 to start and $2 for every mile. Dmitri's ride costs $37. How many miles was it?",
    "Hana bakes 46 biscuits and eats 5 of them while they are warm. She shares the rest equally among 8 children, as many "
    "as possible each. How many biscuits are left over?",
    "Bilal buys 3 notebooks at $3 each and a pencil case for $4. He pays with a $20 note. How much change does he get?",
    "Elif drives at 110 km per hour for 3 hours on the motorway, then at 50 km per hour for 2 hours on country roads. How "
    "many kilometres does she drive altogether?",
    "What is the remainder when 7 to the power of 12 is divided by 10?",
    "A rectangle is twice as long as it is wide, and its perimeter is 54 cm. What is its area in square centimetres?",
    "A tank holds 240 litres. One pipe fills it at 12 litres a minute while another empties it at 4 litres a minute. How "
    "many minutes does it take to fill the empty tank?",
    "Three consecutive even numbers add up to 126. What is the largest of them?"))
EMBEDDING = 384  # numbers of an input key, as the default embedder makes them
HITS = 5  # memories asked for in one search
SHARE = 5 / 8  # of a group's scripted rollouts that agree: a vote that passes the gate and has a gradient


@dataclass(frozen=True)
class Work:
    """The settings of a bench. All plain values, so that a worker process gets them as JSON."""

    model: str = "qwen2.5-coder-0.5b"
    device: str = "auto"
    dtype: str = "auto"
    peer_dtype: str = "auto"  # auto: that of float32 and bfloat16 that is faster in a short probe, or holds less memory
    tokens: int = 200  # of every rollout, exactly
    rollouts: int = 8
    temperature: float = 0.8
    virtual_tokens: int = 20
    learning_rate: float = 1e-3
    init_text: str = "Solve the problem step by step, check each step, and put the final answer within \\boxed{}."
    seed: int = 0
    steps: int = 10  # of one memory
    peer_steps: int = 2  # both sides of `memory` are measured for so many steps and extrapolated to `steps`
    together: int = 8  # memories in one batch
    together_steps: int = 2
    memory_steps: int = 1  # steps of the runs whose peak memory is read
    memories: int = 100_000  # in the bank that is searched
    mapped: int = 10_000  # in the bank whose map is drawn
    queries: int = 200

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, int) and field.name != "seed" and value < 1:
                raise LatentmemError(f"A bench with {field.name} = {value} measures nothing: give at least 1.")
        if self.together > len(PROBLEMS):
            raise LatentmemError(f"The bench has {len(PROBLEMS)} problems, not {self.together}: ask for fewer memories.")

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Side:
    """One side of a row, ready to be measured: `run()` does the work once and returns the figure in the row's unit."""

    run: Callable[[], float]
    note: str = ""


Prepare = Callable[[Work], Side]


class PeerMissing(LatentmemError):
    """A peer cannot be measured here: its package or its weights are missing. The row is then ours alone."""


def language_model(work: Work) -> LanguageModel:
    """The model of the bench, loaded as the engine loads it."""
    from ..model import LanguageModel
    from ..weights import ensure

    return LanguageModel.load(ensure(work.model), device=work.device, dtype=work.dtype)


def synchronise(model: LanguageModel) -> None:
    """Wait until the device has done what it was given: a GPU is asked, not awaited."""
    import torch

    if model.body.device.type == "cuda":
        torch.cuda.synchronize(model.body.device)


def soft_prompt(model: LanguageModel, work: Work) -> Tensor:
    """A soft prompt [virtual tokens, hidden] as training starts from it."""
    return model.text_prompt(work.init_text, work.virtual_tokens)


def scripted(model: LanguageModel, tokens: int, rollouts: int) -> LanguageModel:
    """The same model, but each rollout is exactly `tokens` long and its last tokens spell a boxed answer and the end.

    So all real code runs and the amount of work does not depend on what a model happens to say: no row ends early, and
    of each group SHARE agree on the answer 1 while the others say 2, so that every step has a vote that passes the gate
    and a gradient for every row. The tokens are drawn as usual; only those at the end are replaced.
    """
    end = min(e for e in model.ends)
    tails = [[*model.tokenizer(f"\n\\boxed{{{answer}}}", add_special_tokens=False)["input_ids"], end] for answer in (1, 2)]
    if tokens < len(tails[0]):
        raise LatentmemError(f"Rollouts of {tokens} tokens are too short to end with an answer: give at least {len(tails[0])}.")
    one = copy.copy(model)
    one.ends = frozenset()
    plain = one.generate

    def generate(prompts: Sequence[Any], seeds: Sequence[Sequence[int]], **options: Any) -> Iterator[list[Any]]:
        options["max_new_tokens"] = tokens
        for t, drawn in enumerate(plain(prompts, seeds, **options)):
            yield [_replaced(d, tails[(d.row % rollouts) >= SHARE * rollouts], t - tokens) for d in drawn]

    one.generate = generate  # type: ignore[method-assign]
    return one


def _replaced(drawn: Any, tail: Sequence[int], from_end: int) -> Any:
    if from_end < -len(tail):
        return drawn
    return type(drawn)(drawn.row, tail[from_end], from_end == -1, drawn.entropy, drawn.certainty)


def first_vote(work: Work) -> tuple[tuple[Trace, ...], Vote]:
    """The vote of the model alone that a distillation starts from, as `scripted` rollouts would give it."""
    from ..voting import vote

    traces = tuple(Trace(r, "", "1" if r < SHARE * work.rollouts else "2", True, work.tokens) for r in range(work.rollouts))
    return traces, vote(traces, work.rollouts)
