"""The engine: think, distil, answer. It reads the Settings; everything below takes plain
arguments."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..bank import MemoryBank, Overlay
from ..method.answers import warm_up
from ..method.voting import verdict_stands, vote
from ..records import (
    Delta,
    Distilled,
    Hit,
    KeyKind,
    LatentmemError,
    Memory,
    Problem,
    Receipt,
    Record,
    Retrieval,
    Side,
    Status,
    Trace,
    Vote,
    digest,
    tried,
)
from ..settings import Settings
from .loader import Place, Shared, in_steps
from .receipts import REPLAYED, Circumstances, confirm, events, judged, now, write

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from ..method.retrieval import Choice
    from ..model.language_model import LanguageModel


class Engine:
    """A frozen model, a bank of memories, and the three things done with them.

    Every long call is a generator of records (`records.py`). Closing it cancels, and nothing
    half-done is stored. All raise LatentmemError, one sentence, for what a user can mend.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        bank: MemoryBank | None = None,
        _shared: Shared | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._own_bank, self._shared = bank, _shared or Shared()

    def changed(self, *, on_bank: MemoryBank | None = None, **settings: Any) -> Engine:
        """A copy with some settings replaced, perhaps on another bank. Copies share models and open
        banks."""
        bank = on_bank if on_bank is not None or "bank" in settings else self._own_bank
        return Engine(self.settings.changed(**settings), bank=bank, _shared=self._shared)

    # What it is made of
    # -----------------------------------------------------------------------------------------

    @property
    def bank(self) -> MemoryBank:
        """The bank of the settings, opened on first use."""
        return self._shared.bank(self.settings.bank) if self._own_bank is None else self._own_bank

    @property
    def _parts(self) -> tuple[Place, str]:
        s = self.settings
        return Place(s.model, s.device, s.dtype), s.embedder

    @property
    def ready(self) -> bool:
        """True if the model and the embedder are in memory."""
        return self._shared.loader.has(*self._parts)

    def load(self) -> Iterator[Status]:
        """Fetch, verify and load model and embedder, with progress. Does nothing if they are
        loaded."""
        if not self.ready:
            warm_up()  # starts the process that compares symbolic answers while the weights load
        yield from self._shared.loader.load(*self._parts)

    def fetch(self) -> Generator[Status, None, str]:
        """Fetch and verify the weights that `load` loads, with progress. Returns the fingerprint of
        the model."""
        found: list[str] = []
        loader = self._shared.loader
        yield from in_steps(lambda report: found.append(loader.fetch(*self._parts, report)))
        return found[0]

    @property
    def model(self) -> LanguageModel:
        """The language model, loaded on first use."""
        return self._shared.loader.model(self._parts[0])

    def key(self, problem: Problem, kind: KeyKind | None = None) -> np.ndarray:
        """The retrieval key of a problem, a unit vector [d]."""
        from ..method.retrieval import kv_key

        text, kind = problem.text.strip(), kind or self.settings.key
        place, embedder = self._parts
        made_by = (text, place if kind == "kv" else embedder)
        made = self._shared.keys.get(made_by)
        if made is None:
            made = (
                kv_key(self.model, text)
                if kind == "kv"
                else self._shared.loader.embedder(embedder)(text)
            )
            self._shared.keys.put(made_by, made)
        return made

    # Think
    # ----------------------------------------------------------------------------------------------

    def _check(self, problem: Problem) -> Problem:
        if len(problem.text) > (limit := self.settings.max_problem_chars):
            raise LatentmemError(
                f"The problem has {len(problem.text)} characters and the limit is {limit}: "
                "shorten it."
            )
        return problem.unlabelled()

    def _sides(
        self, problem: Problem, softs: Mapping[Side, Any]
    ) -> Generator[Status | Delta | Trace | Vote, None, None]:
        """Sample the rollouts of all sides in one batch; a Vote follows each Trace."""
        from ..method.rollouts import Job, sample

        s = self.settings
        done: dict[Side, list[Trace]] = {side: [] for side in softs}
        jobs = [Job(problem, s.rollouts, soft, side) for side, soft in softs.items()]
        yield Status("Reading the problem")
        for _, record in sample(
            self.model,
            jobs,
            seed=s.seed,
            temperature=s.temperature,
            top_p=s.top_p,
            max_new_tokens=s.max_new_tokens,
        ):
            yield record
            if isinstance(record, Trace):
                done[record.side].append(record)
                yield vote(done[record.side], s.rollouts, record.side)

    def _soft(self, memory: Memory) -> Any:
        """A memory's soft prompt as a tensor. Refuses a memory that another model made."""
        import torch

        if memory.model != self.model.fingerprint:
            raise LatentmemError(
                f"Memory {memory.id} was made by {memory.model_name} and the model in use is "
                f"{self.model.name}: choose that model, or another memory."
            )
        return torch.from_numpy(memory.soft_prompt.copy())

    def think(self, problem: Problem, *, memory_id: str | None = None) -> Iterator[Record]:
        """Sample rollouts for a problem and vote, alone or with one memory."""
        problem = self._check(problem)
        yield from self.load()
        softs: dict[Side, Any] = {"zero_shot": None}
        if memory_id is not None:
            softs = {"memory": self._soft(self.bank.get(memory_id))}
        traces: list[Trace] = []
        for record in self._sides(problem, softs):
            yield record
            if isinstance(record, Trace):
                traces.append(record)
            elif isinstance(record, Vote):
                last = record
        if memory_id is None:
            self._keep_vote(problem, traces, last)

    def _keep_vote(self, problem: Problem, traces: Sequence[Trace], last: Vote) -> None:
        ordered = tuple(sorted(traces, key=lambda t: t.row))
        self._shared.votes.put(self._vote_key(problem), (ordered, last))

    def _vote_key(self, problem: Problem) -> str:
        # A vote that may have been stopped is known only to engines that stop, too.
        s = self.settings
        return digest(
            problem.id,
            problem.text,
            self.model.fingerprint,
            repr((s.seed, s.rollouts, s.temperature, s.top_p, s.max_new_tokens, self._parts[0])),
            repr((s.gate_votes, s.gate_lead)) if s.stop_when_decided else "",
        )

    # Distil
    # ----------------------------------------------------------------------------------------------

    def distil(
        self, problem: Problem, *, keep: bool = True, enough: Callable[[], bool] = lambda: False
    ) -> Iterator[Record]:
        """Turn the thinking on one problem into a memory. The last record is Distilled."""
        yield from self.distil_many([problem], keep=keep, enough=enough)

    def distil_many(
        self,
        problems: Sequence[Problem],
        *,
        keep: bool = True,
        enough: Callable[[], bool] = lambda: False,
    ) -> Iterator[Record]:
        """The same for several problems in one batch, each with its own soft prompt. Ends with one
        Distilled for each. Once `enough()` is true, training ends with the best prompts so far.

        Steps carry their problem's id. Memories are stored after the training of all.
        """
        from ..method.distillation import Lesson, Recipe
        from ..method.winners import learn

        problems = [self._check(p) for p in problems]
        if keep:
            _ = self.bank  # if it cannot be opened, say so now, not after minutes of training
        yield from self.load()
        firsts = []
        for problem in problems:
            known = self._shared.votes.get(self._vote_key(problem))
            if known is None:
                yield from self.think(problem)
                known = self._shared.votes.get(self._vote_key(problem))
                assert known is not None
            else:
                yield from known[0]
                yield known[1]
            firsts.append(known)
        recipe = Recipe(**{f.name: getattr(self.settings, f.name) for f in fields(Recipe)})
        failed = None
        for i, record in learn(self.model, problems, firsts, recipe, enough=enough):
            if not isinstance(record, Lesson):
                yield record
                continue
            done = self._conclude(problems[i], firsts[i], record, recipe)
            if keep and done.memory is not None:
                wrong = tried(partial(self.keep, done))
                failed, done = failed or wrong, replace(done, kept=wrong is None)
            yield done
        if failed:
            raise failed

    def _conclude(
        self, problem: Problem, first: tuple[tuple[Trace, ...], Vote], lesson: Any, recipe: Any
    ) -> Distilled:
        if lesson.soft is None:
            return Distilled(problem.id, None, lesson.reason, lesson.steps)
        memory = Memory(
            problem=problem,
            soft_prompt=lesson.soft,
            keys={k: self.key(problem, k) for k in ("input", "kv")},
            model=self.model.fingerprint,
            model_name=self.model.name,
            vote=first[1],
            traces=first[0],
            steps=lesson.steps,
            best_step=lesson.best_step,
            created=now(),
            settings={f.name: getattr(recipe, f.name) for f in fields(recipe)},
        )
        return Distilled(problem.id, memory, lesson.reason, lesson.steps)

    def keep(self, distilled: Distilled) -> str:
        """Store the memory of a distillation that was run with keep=False; returns its id."""
        if distilled.memory is None:
            raise LatentmemError(f"There is no memory to keep: {distilled.reason}")
        return self.bank.put(distilled.memory)

    def import_adapter(self, path: str | Path, problem: str = "") -> str:
        """Keep the PEFT prompt-tuning adapter in a folder or a zip as a memory, without a vote.

        It is found by `problem`, else by the problem that our own adapters name, else by the text
        that the prompt started from. Returns its id. Raises LatentmemError for what is no such
        adapter, or was made for another model.
        """
        from ..bank.peft import CONFIG, adapter_folder, load_peft

        with adapter_folder(path) as folder:
            if folder is None:
                raise LatentmemError(
                    f"{path} holds no PEFT adapter: give a folder or a zip with {CONFIG}."
                )
            soft, known = load_peft(folder)
        model, text = self.model, problem.strip() or known["problem"] or known["init_text"]
        if (
            known["model_fingerprint"] not in ("", model.fingerprint)
            or soft.shape[-1] != model.hidden
        ):
            raise LatentmemError(
                f"The adapter was made for {known['base_model'] or 'another model'} with width "
                f"{soft.shape[1]}, and the model in use is {model.name} with width {model.hidden}: "
                "choose that model."
            )
        if not text:
            raise LatentmemError(
                "The adapter does not say what it is for: give the problem that it helps with."
            )
        asked = self._check(Problem(text, source="imported"))
        memory = Memory(
            problem=asked,
            soft_prompt=soft,
            keys={kind: self.key(asked, kind) for kind in ("input", "kv")},
            model=model.fingerprint,
            model_name=model.name,
            vote=Vote((), 0, 0),
            traces=(),
            steps=(),
            best_step=0,
            created=now(),
            settings={"imported": known["base_model"] or "an adapter that names no model"},
        )
        return self.bank.put(memory)

    # Retrieve and answer
    # ----------------------------------------------------------------------------------------

    def search(self, problem: Problem, k: int | None = None) -> Retrieval:
        """The memories of this model nearest to a problem, best first."""
        s, problem = self.settings, self._check(problem)
        hits = self.bank.search(
            self.key(problem), kind=s.key, k=s.k if k is None else k, model=self.model.fingerprint
        )
        return Retrieval(problem.id, s.key, hits)

    def neighbours(self, memory_id: str, k: int = 5) -> tuple[Hit, ...]:
        """The other memories nearest to a memory, best first."""
        memory, kind = self.bank.get(memory_id), self.settings.key
        if kind not in memory.keys:
            return ()
        return self.bank.search(
            memory.keys[kind], kind=kind, k=k, model=memory.model, exclude=(memory.id,)
        )

    def _choose(self, problem: Problem, memory: str) -> Choice:
        from ..method.retrieval import Search, choose
        from ..method.trust import outdone

        s = self.settings
        maker = s.embedder if s.key == "input" else self.model.name
        search = Search(s.key, s.k, s.min_similarity, self.model.fingerprint, maker)
        room = partial(outdone, self.bank, s.key, s.min_similarity)
        return choose(self.bank, self.key, problem, search, memory, room)

    def answer(self, problem: Problem, memory: str = "auto") -> Iterator[Record]:
        """Answer alone and with a memory ("auto": the nearest, "off": none, or an id), and route.
        The last record is the Receipt."""
        yield from self._answer(problem, memory)

    def _answer(
        self, problem: Problem, memory: str, probation: str | None = None
    ) -> Iterator[Record]:
        """`probation`: as a receipt says it was, None: as the bank says it is."""
        from ..method import trust
        from ..method.routing import decide

        began, problem = time.perf_counter(), self._check(problem)
        yield from self.load()
        s, found = self.settings, self._choose(problem, memory)
        softs: dict[Side, Any] = {"zero_shot": None}
        if found.memory is not None:
            softs["memory"] = self._soft(found.memory)
            if probation is None:
                probation = trust.probation(self.bank, found.memory)
        yield Retrieval(problem.id, s.key, found.hits)
        traces: list[Trace] = []
        votes: dict[Side, Vote] = {}
        with closing(self._sides(problem, softs)) as records:
            for record in records:
                yield record
                if isinstance(record, Trace):
                    traces.append(record)
                elif isinstance(record, Vote):
                    votes[record.side] = record
                    if len(votes) == len(softs) and self._over(votes, traces, probation or ""):
                        break
        alone = [t for t in traces if t.side == "zero_shot"]
        self._keep_vote(problem, alone, votes["zero_shot"])
        routed = decide(
            self.model, problem, traces, votes, s.verifier, found.skip_reason, probation or ""
        )
        around = Circumstances(
            self.model.fingerprint,
            self.model.name,
            {k: getattr(s, k) for k in REPLAYED},
            s.seed,
            s.key,
            found.hits,
            found.used,
        )
        receipt = write(problem, around, routed, votes, traces, time.perf_counter() - began, now())

        def keep() -> None:
            self.bank.keep_receipt(receipt, events(receipt))
            if probation and found.memory is not None:
                trust.review(self.bank, found.memory.id)

        failed = None if self.bank.read_only else tried(keep)
        yield receipt
        if failed:
            raise failed

    def _over(self, votes: Mapping[Side, Vote], traces: Sequence[Trace], probation: str) -> bool:
        """Whether to stop: the traces to come can change neither the answer nor whether to learn
        from it."""
        from ..method.routing import settled

        s = self.settings
        if not s.stop_when_decided:
            return False
        left = {side: v.total - sum(t.side == side for t in traces) for side, v in votes.items()}
        return settled(votes, left, s.verifier, probation) and verdict_stands(
            votes["zero_shot"], left["zero_shot"], s.gate_votes, s.gate_lead
        )

    def feedback(self, receipt: Receipt, correct: bool) -> None:
        """Record whether an answer was right, as a person or a benchmark judges it afterwards, once
        (`receipts.judged`)."""
        from ..method.trust import review

        if not self.bank.read_only:
            self.bank.record_all(
                judged(receipt, correct, self.bank.events(kind="feedback", receipt_id=receipt.id))
            )
            if receipt.used is not None:
                review(self.bank, receipt.used.memory_id)

    def replay(self, receipt: Receipt) -> Iterator[Record]:
        """Answer again with the receipt's settings, seed and memory. Raises LatentmemError if the
        answer differs."""
        yield from self.load()
        if receipt.model != self.model.fingerprint:
            raise LatentmemError(
                f"The receipt was written with {receipt.model_name} and the model in use is "
                f"{self.model.name}: choose that model."
            )
        # A receipt may come from a stranger: take nothing else from it.
        asked = {k: v for k, v in receipt.settings.items() if k in REPLAYED}
        asked.setdefault("stop_when_decided", False)  # receipts from before it are of whole votes
        # A replay does not count as a use of the memory: its receipt and events vanish with the
        # overlay.
        with closing(Overlay(self.bank)) as bank:
            engine = self.changed(on_bank=bank, **asked)
            tried_id = receipt.used.memory_id if receipt.used else "off"
            for record in engine._answer(receipt.problem, tried_id, receipt.route.probation):
                yield record
        assert isinstance(record, Receipt)
        confirm(receipt, record)
