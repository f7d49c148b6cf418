"""Traces for many problems in even batches; each rollout is sampled once and remembered on disk."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...files import Log
from ...method.rollouts import Job, sample, seed_for
from ...method.voting import vote
from ...records import LatentmemError, Problem, Side, Trace, Vote, digest
from ..results import AnswerMode, Cost

if TYPE_CHECKING:
    from torch import Tensor

    from ...model.language_model import LanguageModel

PROMPT = 512  # tokens of a prompt, for the size of a batch


def computed(model: LanguageModel) -> tuple[str, ...]:
    """What decides a model's numbers: weights, arithmetic, the type in which they train, device."""
    body = model.body
    return model.fingerprint, body.arithmetic, str(body.dtype), body.device.type


def default_rows(model: LanguageModel, max_new_tokens: int) -> int:
    """Rows of a batch: 32 on a CPU; on a GPU as many as have room for their keys and values."""
    body = model.body
    if body.device.type != "cuda":
        return 32
    return rows_in(body.spare, body.cached, max_new_tokens + PROMPT)


def rows_in(free: int, position: int, length: int) -> int:
    """How many rows of `length` positions, `position` bytes each, fit into half of `free` bytes: 8
    to 256, in eights. The other half is for what a layer computes and for a cache that is being
    compacted."""
    return min(256, max(8, free // 2 // (position * length) // 8 * 8))


@dataclass(frozen=True, eq=False)
class Ask:
    """One problem to sample: alone, behind a soft prompt [virtual tokens, hidden], or in its own
    chat.

    `recalled` counts the tokens of the prompt whose keys and values are at hand, so that they are
    not read again.
    """

    problem: Problem
    soft: Tensor | None = None
    messages: Sequence[dict[str, str]] | None = None
    side: Side = "zero_shot"
    recalled: int = 0


@dataclass(frozen=True)
class Sampled:
    """What an ask gave: its traces by row, their vote, and what sampling them cost."""

    traces: tuple[Trace, ...]
    vote: Vote
    cost: Cost


@dataclass(frozen=True, eq=False)
class _Rollout:
    """One rollout: its ask, its number, and the digest of everything that decides its tokens."""

    ask: int
    row: int
    key: str
    length: int  # of its prompt, soft prompt included


class Sampler:
    """Samples a model for the systems of a comparison, which share its rollouts if they share it.

    A rollout's key is a digest of the model, its numeric type and device, the prompt's ids and soft
    prompt, its seed (`rollouts.seed_for`), temperature, top_p and length limit. What was sampled
    before comes from memory or from `folder`/rollouts.jsonl, with the tokens and seconds it cost
    then. A killed run continues with the batches that it had before it, so it ends with the same
    tokens. One process a folder.
    """

    def __init__(
        self,
        model: LanguageModel,
        seed: int = 0,
        max_new_tokens: int = 320,
        folder: Path | None = None,
        *,
        rows: int | None = None,
        top_p: float = 1.0,
    ) -> None:
        self.model, self.seed, self.max_new_tokens, self.top_p = model, seed, max_new_tokens, top_p
        self.rows = rows or default_rows(model, max_new_tokens)
        self._log = Log(folder / "rollouts.jsonl" if folder else None)
        self._known: dict[str, dict[str, Any]] = {}
        for batch in self._log.read():
            self._keep(batch)

    def of(self, model: LanguageModel) -> Sampler:
        """The same for another model, e.g. with an adapter; both share the memory."""
        other = object.__new__(Sampler)
        other.__dict__.update(self.__dict__, model=model)
        return other

    def prompt(self, ask: Ask) -> tuple[int, ...]:
        """Token ids of an ask's chat, without its soft prompt."""
        return self.model.render(Job(ask.problem, 1, messages=ask.messages).chat)

    def length(self, ask: Ask) -> int:
        """Tokens of an ask's whole prompt."""
        return len(self.prompt(ask)) + (0 if ask.soft is None else len(ask.soft))

    def fits(self, ask: Ask) -> bool:
        """True if the model can read the prompt and still write a full answer."""
        return self.length(ask) + self.max_new_tokens <= self.model.context

    def sample(self, asks: Sequence[Ask], mode: AnswerMode) -> list[Sampled]:
        """The traces of every ask, in order. Raises LatentmemError for a too long problem."""
        rows = [row for i, ask in enumerate(asks) for row in self._rows(i, ask, mode)]
        missing = {row.key: row for row in rows if row.key not in self._known}
        # By length, so that a batch has little padding; cut without regard to what is missing
        # later, so that a run that continues has the batches of the first.
        queue = sorted(missing.values(), key=lambda r: (r.length, r.ask, r.row))
        for batch in self._cut(queue):
            self._batch(asks, batch, mode)
        found: list[list[_Rollout]] = [[] for _ in asks]
        for row in rows:
            found[row.ask].append(row)
        return [self._sampled(ask, group) for ask, group in zip(asks, found, strict=True)]

    def _cut(self, queue: Sequence[_Rollout]) -> Iterator[Sequence[_Rollout]]:
        """Batches of at most `rows`; of fewer on a GPU where prompts are longer than its memory was
        reckoned for. A prompt takes room twice while it is read: for its pass and in the cache."""
        gpu, more = self.model.body.device.type == "cuda", self.max_new_tokens
        full = self.rows * (2 * PROMPT + more) if gpu else math.inf
        while queue:
            size = min(self.rows, len(queue))
            while size > 1 and size * (2 * queue[size - 1].length + more) > full:
                size -= 1
            yield queue[:size]
            queue = queue[size:]

    def _rows(self, index: int, ask: Ask, mode: AnswerMode) -> Iterator[_Rollout]:
        body, ids, length = self.model.body, self.prompt(ask), self.length(ask)
        if length >= self.model.context:
            raise LatentmemError(
                f"Problem {ask.problem.id} makes a prompt of {length} tokens and the model reads "
                f"and writes {self.model.context}: shorten it, or leave it out."
            )
        soft = b"" if ask.soft is None else ask.soft.detach().float().cpu().numpy().tobytes()
        for row in range(mode.traces):
            # A greedy trace draws nothing: it is one and the same for every problem of that text
            # and every seed.
            seed = seed_for(self.seed, ask.problem.id, 0, row) if mode.temperature else 0
            how = seed, float(mode.temperature), float(self.top_p), self.max_new_tokens
            how += body.arithmetic, body.device.type
            key = digest(self.model.fingerprint, repr(ids), soft, repr(how))[:32]
            yield _Rollout(index, row, key, length)

    def _batch(self, asks: Sequence[Ask], rows: Sequence[_Rollout], mode: AnswerMode) -> None:
        """Sample these rows together and remember them; a batch is kept whole or not at all."""
        began, jobs, names, last = time.perf_counter(), [], {}, None
        for row in rows:
            ask = asks[row.ask]
            # the next row of the same ask joins its job
            if last == (id(ask), row.row - 1):
                jobs[-1] = replace(jobs[-1], rollouts=jobs[-1].rollouts + 1)
            else:
                jobs.append(Job(ask.problem, 1, ask.soft, messages=ask.messages, first=row.row))
            last = id(ask), row.row
            names[len(jobs) - 1, row.row] = row.key
        how = {"temperature": mode.temperature, "top_p": self.top_p, "seed": self.seed}
        drawn = sample(self.model, jobs, max_new_tokens=self.max_new_tokens, **how)
        ended = {names[job, t.row]: t for job, t in drawn if isinstance(t, Trace)}
        spent = (time.perf_counter() - began) / sum(t.tokens for t in ended.values())
        batch = {
            key: {
                "text": t.text,
                "answer": t.answer,
                "finished": t.finished,
                "ids": list(t.token_ids),
                "certainty": t.self_certainty,
                "entropy": t.entropy,
                "seconds": spent * t.tokens,  # a row's part of the seconds is that of the tokens
            }
            for key, t in ended.items()
        }
        self._log.append(batch)
        self._keep(batch)

    def _keep(self, batch: dict[str, dict[str, Any]]) -> None:
        for key, one in batch.items():
            self._known[key] = {**one, "ids": array("i", one["ids"])}

    def _sampled(self, ask: Ask, rows: Sequence[_Rollout]) -> Sampled:
        traces = []
        for row in rows:
            one = dict(self._known[row.key])
            ids = tuple(one.pop("ids"))
            one |= {"self_certainty": one.pop("certainty"), "tokens": len(ids), "token_ids": ids}
            traces.append(Trace(row=row.row, side=ask.side, **one))
        tokens, seconds = sum(t.tokens for t in traces), sum(t.seconds for t in traces)
        cost = Cost(tokens, rows[0].length - ask.recalled, seconds)
        return Sampled(tuple(traces), vote(traces, side=ask.side), cost)
