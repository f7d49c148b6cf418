"""Problems -> traces, as a stream. Jobs share a batch, each with its own soft prompt or none."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from torch import Tensor

from ..model.allocator import give_back, memory_errors
from ..model.language_model import LanguageModel, Prompt
from ..records import Delta, Problem, Side, Trace, digest
from .answers import extract_boxed
from .prompts import solve_messages


@dataclass(frozen=True, eq=False)
class Job:
    """Rollouts to sample for one problem. `step` is part of the seeds: 0 for answering, 1.. for the
    steps of a distillation.

    `messages` is the chat to continue, if not the frozen one (`prompts.solve_messages`). `first` is
    the number of the first rollout: a vote can grow without sampling its first rows again.
    """

    problem: Problem
    rollouts: int
    soft: Tensor | None = None  # [virtual tokens, hidden]
    side: Side = "zero_shot"
    step: int = 0
    messages: Sequence[dict[str, str]] | None = None
    first: int = 0

    @property
    def chat(self) -> list[dict[str, str]]:
        return solve_messages(self.problem.text) if self.messages is None else list(self.messages)

    @property
    def rows(self) -> range:
        return range(self.first, self.first + self.rollouts)


def seed_for(seed: int, problem_id: str, step: int, row: int) -> int:
    """The 64-bit seed of one rollout. It leaves out the side on purpose: the same uniform numbers
    with and without a memory keep luck out of their comparison."""
    return int(digest(str(seed), problem_id, str(step), str(row))[:16], 16)


def _stream() -> DecodeStream:
    return DecodeStream(skip_special_tokens=True)


@dataclass(eq=False)
class _Open:
    """A rollout that has not ended."""

    job: int
    row: int
    ids: list[int] = field(default_factory=list)
    entropy: float = 0.0
    certainty: float = 0.0
    stream: DecodeStream = field(default_factory=_stream)
    text: str = ""  # heard so far, where a box ends the rollout

    def boxed(self, text: str) -> bool:
        """Whether one more piece of text closes the first box that holds an answer."""
        self.text += text
        return "}" in text and extract_boxed(self.text) is not None

    def trace(self, text: str, finished: bool, side: Side, seconds: float) -> Trace:
        """What the rollout has come to, `text` in whole."""
        n = len(self.ids)
        return Trace(
            row=self.row,
            text=text,
            answer=extract_boxed(text),
            finished=finished,
            tokens=n,
            side=side,
            token_ids=tuple(self.ids),
            self_certainty=self.certainty / n,
            entropy=self.entropy / n,
            seconds=seconds,
        )

    def heard(self, tokenizer: Tokenizer, token: int) -> str:
        """The text that one more token completes, '' if none yet.

        A tokenizer that falls back to bytes, as Llama 2's does, fails at bytes that make no
        character; a new stream then replaces the broken one. The text on the screen may lack those
        bytes until the whole text is decoded.
        """
        try:
            return self.stream.step(tokenizer, token) or ""
        except Exception as e:  # tokenizers has no narrower class
            if "prefix" not in str(e):
                raise
            self.stream = _stream()
            return self.stream.step(tokenizer, token) or ""


@memory_errors
def sample(
    model: LanguageModel,
    jobs: Sequence[Job],
    *,
    seed: int,
    temperature: float,
    max_new_tokens: int,
    top_p: float = 1.0,
    stop_at_box: bool = False,
    watch: Callable[[Sequence[int], Tensor], None] | None = None,
) -> Generator[tuple[int, Delta | Trace], None, None]:
    """Sample all jobs in one batch. Yields (job index, record): Deltas as text comes, a Trace as
    each rollout ends.

    `Trace.row` counts within its job, from `first`. A trace cut off at max_new_tokens is not
    `finished`. The token ids include the end-of-sequence token, which the model chose like any
    other. `stop_at_box`: a trace ends, `finished`, with the token that closes its first box.
    `watch` is that of `LanguageModel.generate`; its rows count through all jobs.
    """
    give_back()
    began, tokenizer = time.perf_counter(), model.tokenizer
    prompts = [Prompt(model.render(j.chat), j.soft) for j in jobs]
    seeds = [[seed_for(seed, j.problem.id, j.step, r) for r in j.rows] for j in jobs]
    boxed: set[int] = set()
    rows = {
        i: _Open(j, r)
        for i, (j, r) in enumerate((j, r) for j, job in enumerate(jobs) for r in job.rows)
    }

    def close(one: _Open, finished: bool) -> Trace:
        text = tokenizer.decode(one.ids, skip_special_tokens=True)
        return one.trace(text, finished, jobs[one.job].side, time.perf_counter() - began)

    for drawn in model.generate(
        prompts,
        seeds,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        stopped=boxed.__contains__,
        watch=watch,
    ):
        for d in drawn:
            one = rows[d.row]
            one.ids.append(d.token)
            one.entropy += d.entropy
            one.certainty += d.certainty
            if d.ended:
                yield one.job, close(rows.pop(d.row), True)
            elif text := one.heard(tokenizer.backend_tokenizer, d.token):
                yield one.job, Delta(one.row, text, jobs[one.job].side)
                if stop_at_box and one.boxed(text):
                    boxed.add(d.row)
                    yield one.job, close(rows.pop(d.row), True)
    for one in rows.values():
        yield one.job, close(one, False)
