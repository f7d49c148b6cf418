"""Named endpoints with typed parameters for `gradio_client` and, where it is switched on, the Model
Context Protocol.

They do what the panels do, through the same functions. In a shared app a client works on its own
memories and under the same limits as a visitor. Files go through hidden components, because
`gr.api` knows only JSON.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_type_hints

import gradio as gr
from gradio.context import Context
from pydantic import TypeAdapter, ValidationError

from ..bank import notes as bank_notes
from ..evaluation.results import Progress, Standing
from ..model.vocabulary import memory_words
from ..records import (
    Distilled,
    LatentmemError,
    Receipt,
    Retrieval,
    Trace,
    VerifierName,
    Vote,
    to_dict,
)
from .components import MODEL, SAMPLING, TRAINING
from .map.actions import adapter_zip, forget_receipt
from .panels.solve import Question
from .panels.stream import (
    ALL,
    AT_FIRST,
    FILE_TYPES,
    FIRST,
    SYSTEMS,
    Stream,
    StreamChoice,
    most_problems,
    stream_records,
)
from .runs import SORRY, Run, follow
from .session import (
    AppSession,
    attempt,
    distil_records,
    exclusively,
    family,
    last_receipt,
    model_records,
)

# ---------- How the endpoints answer: what a client sends is checked, and errors are one sentence.

log = logging.getLogger(__name__)


def checked(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint, for whatever JSON a client sends: null means the default where there is one,
    numbers may come as text, and what does not fit is one sentence. No id may be empty: to the
    engine that means no memory at all."""
    signature = inspect.signature(fn)

    @functools.wraps(fn)
    def endpoint(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        try:
            for name in [n for n in _kinds(fn) if n in bound.arguments]:
                default = signature.parameters[name].default
                value = _fitting(name, bound.arguments[name], _kinds(fn)[name], default)
                bound.arguments[name] = value
            return fn(*bound.args, **bound.kwargs)
        except LatentmemError as e:
            raise gr.Error(str(e), print_exception=False) from None
        except gr.Error:
            raise
        except Exception:
            log.exception("an endpoint failed")
            raise gr.Error(SORRY, print_exception=False) from None

    return endpoint


@functools.cache
def _kinds(fn: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> its type, or what checks it; made at the first call, since the import would wait
    for it."""
    return {
        name: kind if kind is str else TypeAdapter(kind)
        for name, kind in get_type_hints(fn).items()
        if name not in ("request", "return")
    }


def _fitting(name: str, value: Any, kind: Any, default: Any) -> Any:
    if value is None and default is not inspect.Parameter.empty:
        return default
    wrong = ""
    if kind is str:  # not by pydantic, which takes no lone surrogates: they are replaced later
        wrong = "" if isinstance(value, str) else "should be a text"
    else:
        try:
            value = kind.validate_python(value)
        except ValidationError as e:
            wrong = e.errors()[0]["msg"].removeprefix("Input ")
    if wrong:
        raise LatentmemError(f"{name} = {str(value)[:40]!r} does not fit: it {wrong}.")
    if name.endswith("_id") and not value.strip():
        raise LatentmemError(f"{name} is empty: give the id of a {name.removesuffix('_id')}.")
    return value


def given(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among the arguments of an endpoint; null means the app's own."""
    return {n: asked[n] for n in (*SAMPLING, *TRAINING) if asked.get(n) is not None}


def as_dict(receipt: Receipt) -> dict[str, Any]:
    """A receipt with its sentence and without token ids, for which the digest stands."""
    data = to_dict(receipt) | {"sentence": receipt.sentence()}
    for trace in data["traces"]:
        trace.pop("token_ids")
    return data


def kept(records: Iterator[Any], *kinds: type) -> list[Any]:
    """The records of these kinds, once the stream has ended."""
    return [record for record in records if isinstance(record, kinds)]


def last(records: Iterator[Any], kind: type) -> Any:
    """The last record of a kind; every stream has one."""
    return kept(records, kind)[-1]


System = Literal["zero_shot", "vote", "icl_raw", "elm"]
Key = Literal["input", "kv"]
EVERY = 1.0  # seconds between two answers, if no reply or lesson comes in between
# The endpoints by name: those that use the model, the others, and those that give or take a file.
WORK = ("solve", "think", "replay", "distil", "search", "words")
KEPT = ("keep", "discard", "feedback", "memories", "memory", "receipt", "forget", "neighbours")
QUICK = (*KEPT, "tag", "note", "quarantine", "release", "delete")
FILES = ("export_bank", "export_peft", "import_bank")
ENDPOINTS = (*WORK, "stream", *QUICK, *FILES)


class Endpoints:
    """All that a program can ask. Each endpoint works in the caller's own session."""

    def __init__(self, session: AppSession) -> None:
        self.session = session

    def _bank(self, request: Any) -> Any:
        return self.session.at(request).engine.bank

    def _last_receipt(self, request: Any) -> Receipt:
        found = last_receipt(self.session.visit(request))
        if found is None:
            raise LatentmemError("There is no last question: call solve first.")
        return found

    # ---------- with the model

    @checked
    def solve(
        self,
        problem: str,
        memory: str = "auto",
        rollouts: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        top_p: float | None = None,
        max_new_tokens: int | None = None,
        verifier: VerifierName | None = None,
        key: Key | None = None,
        min_similarity: float | None = None,
        request: gr.Request = None,
    ) -> dict:
        """Answers a problem, without a memory and with one, and returns the receipt: which memory
        answered, and why.

        Parameters:
            problem: the question, with one answer
            memory: "auto" (the nearest one), "off", or the id of a memory
            rollouts: traces for a vote; null, here and below, means the app's own setting
            temperature: 0 is greedy
            seed: the same seed gives the same traces
            top_p: nucleus sampling
            max_new_tokens: a longer trace is cut off and does not vote
            verifier: who decides when the model alone and the memory disagree
            key: memories are found by sentence embedding (input) or by the model's activations (kv)
            min_similarity: a memory less similar than this is not tried
        """
        settings, session = given(locals()), self.session.at(request)
        records = model_records(session, problem, settings, lambda e, p: e.answer(p, memory=memory))
        answered = last(records, Receipt)
        run = session.visit(request).start("solve")  # for `replay` and `feedback`
        run.asked, run.scene.receipt = Question(answered.problem.text), answered
        run.begun = run.done = True
        return as_dict(answered)

    @checked
    def think(
        self,
        problem: str,
        memory_id: str,
        rollouts: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        request: gr.Request = None,
    ) -> dict:
        """What the model says with one memory: traces and their vote, to compare with a receipt of
        the same seed.

        Parameters:
            problem: the question
            memory_id: the memory to think with
            rollouts: traces for the vote
            temperature: 0 is greedy
            seed: the same seed gives the same traces
        """
        settings, session = given(locals()), self.session.at(request)
        records = model_records(
            session, problem, settings, lambda e, p: e.think(p, memory_id=memory_id)
        )
        records = kept(records, Trace, Vote)
        traces = [to_dict(r) for r in records if isinstance(r, Trace)]
        for trace in traces:
            trace.pop("token_ids")
        vote = [r for r in records if isinstance(r, Vote)][-1]
        return {"answer": vote.label, "vote": to_dict(vote), "traces": traces}

    @checked
    def replay(self, request: gr.Request = None) -> dict:
        """Asks this client's last question again with the same seed, and says whether the tokens
        are the same."""
        session = self.session.at(request)
        first = self._last_receipt(request)
        try:
            again = last(exclusively(session, session.engine.replay(first)), Receipt)
        except LatentmemError as e:
            return {"same": False, "receipt": first.id, "reason": str(e)}
        return {"same": again.token_digest == first.token_digest, "receipt": first.id, "reason": ""}

    @checked
    def distil(
        self,
        problem: str,
        steps: int | None = None,
        rollouts: int | None = None,
        seed: int | None = None,
        learning_rate: float | None = None,
        virtual_tokens: int | None = None,
        keep: bool = True,
        recipe: Literal["fast", "paper"] | None = None,
        request: gr.Request = None,
    ) -> dict:
        """Distils a memory from a problem. Returns its id, or null and why there is none, and the
        steps.

        Parameters:
            problem: the question; no answer is needed
            steps: gradient steps
            rollouts: traces of the vote, and fresh ones in each step of the paper's recipe
            seed: the same seed gives the same memory on the same machine
            learning_rate: size of a step, of the paper's recipe
            virtual_tokens: length of the memory, of the paper's recipe
            keep: store it at once; else `keep` or `discard` it afterwards
            recipe: fast learns the attempts that won the vote; paper samples fresh ones
        """
        settings, session = given(locals()), self.session.at(request)
        done = last(distil_records(session, problem, settings, keep), Distilled)
        session.visit(request).pending = done if done.memory is not None and not done.kept else None
        return {
            "memory_id": done.memory.id if done.memory is not None else None,
            "reason": done.reason,
            "kept": done.kept,
            "steps": [to_dict(s) for s in done.steps],
        }

    @checked
    def search(
        self, problem: str, k: int = 5, key: Key | None = None, request: gr.Request = None
    ) -> dict:
        """The memories nearest to a problem, with their similarity, whether or not they would be
        tried.

        Parameters:
            problem: the question
            k: how many
            key: compared by sentence embedding (input) or by the model's activations (kv)
        """
        settings, session = given(locals()), self.session.at(request)
        most = max(1, min(int(k), 100))
        records = model_records(session, problem, settings, lambda e, p: [e.search(p, most)])
        return to_dict(last(records, Retrieval))

    @checked
    def words(self, memory_id: str, request: gr.Request = None) -> list[list[dict]]:
        """The words nearest to each virtual token of a memory. They are neighbours, not its
        meaning.

        Parameters:
            memory_id: its id
        """
        session = self.session.at(request)
        memory = session.engine.bank.get(memory_id)
        kept(exclusively(session, session.warming.follow(session.engine)))
        return [[to_dict(w) for w in row] for row in memory_words(session.engine.model, memory)]

    def stream(
        self,
        family: str = ALL,
        systems: list[System] | None = None,
        problems: int | None = None,
        seed: int | None = None,
        file: str | None = None,
        fresh: bool = False,
        request: gr.Request = None,
    ) -> Iterator[dict]:
        """Meets problems one at a time and yields how each system stands so far. The last yield has
        all replies and lessons.

        Each problem is answered with what was learnt from earlier ones only, scored, and then
        learnt from. The same stream, asked for again, continues where it was stopped.

        Parameters:
            family: a family of the examples, or all of them mixed
            systems: the model alone with one trace or a vote, a past problem in its context,
            memories; null means all but the past problem
            problems: how many; null means what the panel begins with
            seed: the same seed gives the same order and the same traces; null means the app's own
            file: problems and answers (JSONL, CSV or Parquet), in the place of the examples
            fresh: true forgets what there was of this stream
        """
        session = self.session.at(request)
        asked = StreamChoice(
            family,
            file,
            AT_FIRST if systems is None else systems,
            min(FIRST, most_problems(session.hosted)) if problems is None else problems,
            session.engine.settings.seed if seed is None else seed,
            fresh,
        )
        run = Stream(session).new_run(session.visit(request), asked)
        try:
            yield standings(run, ended=False)  # before its first answer gradio cannot cancel it
        except GeneratorExit:
            run.end()
            raise
        for _ in follow(stream_records(session, run), run, refresh=EVERY, beat=EVERY):
            session.visit(request)  # whoever listens is not idle: a stream may take hours
            yield standings(run, ended=False)
        if run.error:
            raise gr.Error(run.error, print_exception=False)
        yield standings(run, ended=True)

    # ---------- what waits, and the last question

    @checked
    def keep(self, request: gr.Request = None) -> str:
        """Stores the memory that this client distilled with keep=false. Returns its id."""
        session = self.session.at(request)
        visit = session.visit(request)
        if visit.pending is None:
            raise LatentmemError("There is no memory to keep: distil one with keep=false first.")
        name = session.engine.keep(visit.pending)
        visit.pending = None
        return name

    @checked
    def discard(self, request: gr.Request = None) -> bool:
        """Forgets the memory that this client distilled with keep=false; returns whether it had
        one."""
        session = self.session.at(request)
        visit = session.visit(request)
        waited, visit.pending = visit.pending is not None, None
        return waited

    @checked
    def feedback(self, correct: bool, request: gr.Request = None) -> str:
        """Says whether the answer to this client's last question was right. The memory that was
        tried keeps it as an event.

        Parameters:
            correct: was it right?
        """
        session = self.session.at(request)
        judged = self._last_receipt(request)
        session.engine.feedback(judged, correct)
        return judged.id

    # ---------- what lies in the bank; without the model

    @checked
    def memories(self, text: str = "", limit: int = 100, request: gr.Request = None) -> list[dict]:
        """Rows of the bank, newest first.

        Parameters:
            text: only those whose problem, answer or id contains this
            limit: at most so many, up to 1000
        """
        bank = self._bank(request)
        return [to_dict(i) for i in bank.infos(text=text or None, limit=max(1, min(limit, 1000)))]

    @checked
    def memory(self, memory_id: str, request: gr.Request = None) -> dict:
        """One memory: its row, vote, steps, settings, last events, ids of receipts; without its
        arrays and traces.

        Parameters:
            memory_id: its id, or the beginning of it
        """
        bank = self._bank(request)
        info, whole = bank.info(memory_id), bank.get(memory_id)
        events, asked = bank.events(info.id, limit=100), bank.asked(info.id)
        return to_dict(info) | {
            "vote": to_dict(whole.vote),
            "steps": [to_dict(s) for s in whole.steps],
            "settings": dict(whole.settings),
            "events": [to_dict(e) for e in events],
            "receipts": list(asked),
        }

    @checked
    def receipt(self, receipt_id: str, request: gr.Request = None) -> dict:
        """The receipt of an earlier answer, as `solve` returned it but with its traces cut short.

        Parameters:
            receipt_id: its id, from `solve` or among the receipts and events of a `memory`
        """
        return as_dict(self._bank(request).receipt(receipt_id))

    @checked
    def forget(self, receipt_id: str, request: gr.Request = None) -> str:
        """Deletes a receipt for good: the question, the votes and the traces. The counters of
        memories stay. In a shared app, one of the client's own. Returns its id.

        Parameters:
            receipt_id: the whole id
        """
        return forget_receipt(self._bank(request), receipt_id)

    @checked
    def neighbours(self, memory_id: str, k: int = 5, request: gr.Request = None) -> list[dict]:
        """The memories nearest to a memory, itself left out.

        Parameters:
            memory_id: its id
            k: how many
        """
        session = self.session.at(request)
        hits = session.engine.neighbours(memory_id, max(1, min(int(k), 100)))
        return [to_dict(h) for h in hits]

    # ---------- what people write about memories

    @checked
    def tag(
        self, memory_id: str, name: str, on: bool = True, request: gr.Request = None
    ) -> list[str]:
        """Gives a memory a tag, or takes it away. Returns its tags.

        Parameters:
            memory_id: its id
            name: one or a few words
            on: false takes the tag away
        """
        bank = self._bank(request)
        one = bank.info(memory_id).id
        bank_notes.tag(bank, [one], name, on)
        return list(bank_notes.tags(bank, one).get(one, ()))

    @checked
    def note(self, memory_id: str, text: str = "", request: gr.Request = None) -> list[dict]:
        """Keeps a note with a memory; without a text nothing is written. Returns all its notes.

        Parameters:
            memory_id: its id
            text: what was noticed
        """
        bank = self._bank(request)
        name = bank.info(memory_id).id
        if text:
            bank_notes.add_note(bank, name, text)
        return [to_dict(n) for n in bank_notes.notes(bank, name).get(name, ())]

    @checked
    def quarantine(self, memory_id: str, reason: str = "", request: gr.Request = None) -> str:
        """Keeps a memory from being tried. Returns its id.

        Parameters:
            memory_id: its id
            reason: one sentence, kept with it
        """
        return self._bank(request).quarantine(memory_id, reason[:500]).memory_id

    @checked
    def release(self, memory_id: str, request: gr.Request = None) -> str:
        """Lets a memory be tried again. Returns its id.

        Parameters:
            memory_id: its id
        """
        return self._bank(request).release(memory_id).memory_id

    @checked
    def delete(self, memory_id: str, request: gr.Request = None) -> str:
        """Deletes a memory for good. Returns its id.

        Parameters:
            memory_id: the whole id: a beginning is not enough
        """
        bank = self._bank(request)
        if memory_id not in bank:
            raise LatentmemError(
                f"There is no memory with the id {memory_id[:40]!r}: give the whole id."
            )
        bank.delete(memory_id)
        return memory_id

    # ---------- files

    @checked
    def export_bank(self, request: gr.Request = None) -> str:
        """The bank as a zip; in a shared app the memories of one's own."""
        session = self.session.at(request)

        def zipped(folder: Path) -> str:
            session.engine.bank.export_zip(folder / "latentmem-bank.zip")
            return str(folder / "latentmem-bank.zip")

        return session.export("bank", zipped)

    @checked
    def export_peft(self, memory_id: str, request: gr.Request = None) -> str:
        """One memory as a zipped PEFT adapter folder."""
        session = self.session.at(request)
        return str(session.export("peft", lambda folder: adapter_zip(session, memory_id, folder)))

    @checked
    def import_bank(self, file: str | None, request: gr.Request = None) -> dict:
        """Adds the memories of an exported zip that are not yet there. Returns how many came in and
        what was refused."""
        bank = self._bank(request)
        if not file:
            raise LatentmemError("No file was sent: send the zip of an exported bank.")
        return to_dict(bank.import_zip(file))


def standings(run: Run, ended: bool) -> dict[str, Any]:
    """A stream as plain values; its replies and lessons only once, at its end."""
    with run.lock:
        feed = run.scene
        far = feed.progress or Progress(0, 0, ())
        return {
            "done": far.done,
            "total": far.total,
            "whole": feed.whole,
            "problems": feed.total,
            "doing": feed.status.text if feed.status is not None and not ended else "",
            "standings": [standing(s) for s in far.standings],
            "notes": list(feed.notes),
            "results": [to_dict(r) for r in feed.results] if ended else [],
            "learned": [to_dict(one) for one in feed.learned] if ended else [],
        }


def standing(s: Standing) -> dict[str, Any]:
    """How one system stands, with its shares."""
    shares = ("accuracy", "coverage", "routing_accuracy")
    return to_dict(s) | {name: getattr(s, name) for name in shares}


def _offer_stream(fns: Endpoints, hidden: gr.Button) -> None:
    """Registers `stream`, whose file needs a component."""
    families = sorted({family(p) for p in fns.session.examples.values() if p.answer})
    names = [name for _, name in SYSTEMS]
    shut: dict[str, Any] = {"visible": False}
    asked = [
        gr.Dropdown([ALL, *families], value=ALL, label="family", **shut),
        gr.Dropdown(names, value=list(AT_FIRST), multiselect=True, label="systems", **shut),
        gr.Number(None, precision=0, label="problems", **shut),
        gr.Number(None, precision=0, label="seed", **shut),
        gr.File(file_types=FILE_TYPES, type="filepath", label="file", **shut),
        gr.Checkbox(False, label="fresh", **shut),
    ]
    answer = gr.JSON(label="standings", **shut)
    hidden.click(fns.stream, asked, answer, api_name="stream", show_progress="hidden", **MODEL)


def at_once(session: AppSession, endpoint: Callable[..., Any]) -> Callable[..., Any] | None:
    """What gradio asks before a call of the endpoint queues: can its problem be asked? None where
    the endpoint takes no problem."""
    signature = inspect.signature(endpoint)
    if "problem" not in signature.parameters:
        return None

    @functools.wraps(endpoint)
    def validator(*args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        asked = signature.bind(*args, **kwargs).arguments
        mine = session.at(asked.pop("request", None))
        _, wrong = attempt(lambda: mine.problem(str(asked["problem"] or "")))
        return [gr.validate(not wrong, wrong), *[gr.validate(True, "")] * (len(asked) - 1)]

    return validator


def register(session: AppSession) -> None:
    """Registers them inside the Blocks of the caller; those with the model share its queue."""
    fns = Endpoints(session)
    for name in WORK:
        gr.api(endpoint := getattr(fns, name), api_name=name, **MODEL)
        Context.root_block.fns[max(Context.root_block.fns)].validator = at_once(session, endpoint)
    for name in QUICK:
        gr.api(getattr(fns, name), api_name=name)
    file = gr.File(visible=False, label="file")
    memory = gr.Textbox(visible=False, label="memory_id")
    report = gr.JSON(visible=False, label="report")
    hidden = gr.Button(visible=False)
    for fn, given, answer in (
        (fns.export_bank, None, file),
        (fns.export_peft, memory, file),
        (fns.import_bank, file, report),
    ):
        hidden.click(fn, given, answer, api_name=fn.__name__, show_progress="hidden")
    _offer_stream(fns, hidden)
