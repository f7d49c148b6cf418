"""Named endpoints with typed parameters for `gradio_client` and, where it is switched on, the Model Context Protocol.

They do what the panels do, through the same functions. In a shared app a client works on its own memories and under the
same limits as a visitor. Files go through hidden components, because `gr.api` knows only JSON.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import gradio as gr

from ..records import Distilled, Receipt, Trace, Vote, to_dict
from .api_answers import as_dict, checked, given, kept, last, last_receipt, remember, said
from .api_bank import delete, forget, memories, memory, neighbours, quarantine, receipt, release
from .api_notes import note, tag, words
from .api_stream import offer, stream
from .map_actions import adapter_zip
from .session import (
    Desk,
    answer_records,
    bind,
    distil_records,
    exclusively,
    ready_engine,
    think_records,
)

Verifier = Literal["vote_share", "self_certainty", "judge"]
Key = Literal["input", "kv"]


def endpoints(desk: Desk, model_work: dict[str, Any]) -> None:
    """Registers all of them; those that use the model share its queue."""
    for fn in WORK:
        gr.api(bind(fn, desk), api_name=fn.__name__, **model_work)
    for fn in QUICK:
        gr.api(bind(fn, desk), api_name=fn.__name__)
    file, name, report = gr.File(visible=False, label="file"), gr.Textbox(visible=False, label="memory_id"), gr.JSON(
        visible=False, label="report")
    hidden, quiet = gr.Button(visible=False), {"show_progress": "hidden"}
    hidden.click(bind(export_bank, desk), None, file, api_name="export_bank", **quiet)
    hidden.click(bind(export_peft, desk), name, file, api_name="export_peft", **quiet)
    hidden.click(bind(import_bank, desk), file, report, api_name="import_bank", **quiet)
    offer(desk, hidden, model_work)


# ---------------------------------------------------------------- with the model
@checked
def solve(desk: Desk, problem: str, memory: str = "auto", rollouts: int | None = None, temperature: float | None = None,
          seed: int | None = None, top_p: float | None = None, max_new_tokens: int | None = None,
          verifier: Verifier | None = None, key: Key | None = None, min_similarity: float | None = None,
          request: gr.Request = None) -> dict:  # type: ignore[assignment]
    """Answers a problem, without a memory and with one, and returns the receipt: which memory answered, and why.

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
    records = answer_records(desk, problem, memory, given(
        rollouts=rollouts, temperature=temperature, seed=seed, top_p=top_p, max_new_tokens=max_new_tokens,
        verifier=verifier, key=key, min_similarity=min_similarity))
    answered = last(records, Receipt)
    remember(desk, request, answered)
    return as_dict(answered)


@checked
def think(desk: Desk, problem: str, memory_id: str, rollouts: int | None = None, temperature: float | None = None,
          seed: int | None = None) -> dict:
    """What the model says with one memory: traces and their vote, to be laid beside a receipt of the same seed.

    Parameters:
        problem: the question
        memory_id: the memory to think with
        rollouts: traces for the vote
        temperature: 0 is greedy
        seed: the same seed gives the same traces
    """
    records = kept(think_records(desk, problem, memory_id, given(
        rollouts=rollouts, temperature=temperature, seed=seed)), Trace, Vote)
    traces = [to_dict(r) for r in records if isinstance(r, Trace)]
    for trace in traces:
        trace.pop("token_ids")
    vote = [r for r in records if isinstance(r, Vote)][-1]
    return {"answer": vote.label, "vote": to_dict(vote), "traces": traces}


def replay(desk: Desk, request: gr.Request = None) -> dict:  # type: ignore[assignment]
    """Asks this client's last question again with the same seed, and says whether the same tokens came."""
    first = last_receipt(desk, request)
    try:
        again = last(exclusively(desk, desk.engine.replay(first)), Receipt)
    except gr.Error as e:
        return {"same": False, "receipt": first.id, "reason": str(e)}
    return {"same": again.token_digest == first.token_digest, "receipt": first.id, "reason": ""}


@checked
def distil(desk: Desk, problem: str, steps: int | None = None, rollouts: int | None = None, seed: int | None = None,
           learning_rate: float | None = None, virtual_tokens: int | None = None, keep: bool = True,
           request: gr.Request = None) -> dict:  # type: ignore[assignment]
    """Distils a memory from a problem. Returns its id, or null and why there is none, and the steps.

    Parameters:
        problem: the question; no answer is needed
        steps: gradient steps
        rollouts: fresh traces in each step
        seed: the same seed gives the same memory on the same machine
        learning_rate: size of a step
        virtual_tokens: length of the memory
        keep: store it at once; else `keep` or `discard` it afterwards
    """
    done = last(distil_records(desk, problem, given(
        steps=steps, rollouts=rollouts, seed=seed, learning_rate=learning_rate, virtual_tokens=virtual_tokens), keep),
        Distilled)
    desk.visit(request).pending = done if done.memory is not None and not done.kept else None
    return {"memory_id": done.memory.id if done.memory is not None else None, "reason": done.reason, "kept": done.kept,
            "steps": [to_dict(s) for s in done.steps]}


@checked
def search(desk: Desk, problem: str, k: int = 5, key: Key | None = None) -> dict:
    """The memories nearest to a problem, with their similarity, whether or not they would be tried.

    Parameters:
        problem: the question
        k: how many
        key: compared by sentence embedding (input) or by the model's activations (kv)
    """
    found: list[Any] = []

    def records() -> Iterator[Any]:
        asked = desk.problem(problem)
        engine = yield from ready_engine(desk, given(key=key))
        found.append(engine.search(asked, max(1, min(int(k), 100))))

    kept(exclusively(desk, records()))
    return to_dict(found[0])


# ---------------------------------------------------------------- without it
def keep(desk: Desk, request: gr.Request = None) -> str:  # type: ignore[assignment]
    """Stores the memory that this client distilled with keep=false. Returns its id."""
    visit = desk.visit(request)
    if visit.pending is None:
        raise gr.Error("There is no memory to keep: distil one with keep=false first.", print_exception=False)
    name = said(lambda: desk.engine.keep(visit.pending))
    visit.pending = None
    return name


def discard(desk: Desk, request: gr.Request = None) -> bool:  # type: ignore[assignment]
    """Forgets the memory that this client distilled with keep=false. Returns whether there was one."""
    visit = desk.visit(request)
    waited, visit.pending = visit.pending is not None, None
    return waited


@checked
def feedback(desk: Desk, correct: bool, request: gr.Request = None) -> str:  # type: ignore[assignment]
    """Says whether the answer to this client's last question was right; it is taken down with the memory that was tried.

    Parameters:
        correct: was it right?
    """
    judged = last_receipt(desk, request)
    said(lambda: desk.engine.feedback(judged, correct))
    return judged.id


# ---------------------------------------------------------------- files
def export_bank(desk: Desk) -> str:
    """The bank as a zip; in a shared app the memories of one's own."""
    def zipped(folder: Path) -> str:
        desk.engine.bank.export_zip(folder / "latentmem-bank.zip")
        return str(folder / "latentmem-bank.zip")

    return said(lambda: desk.export("bank", zipped))


@checked
def export_peft(desk: Desk, memory_id: str) -> str:
    """One memory as a zipped PEFT adapter folder."""
    return str(said(lambda: desk.export("peft", lambda folder: adapter_zip(desk, memory_id, folder))))


def import_bank(desk: Desk, file: str | None) -> dict:
    """Adds the memories of an exported zip that are not yet there. Returns how many came in and what was refused."""
    if not file:
        raise gr.Error("No file was sent: send the zip of an exported bank.", print_exception=False)
    return to_dict(said(lambda: desk.engine.bank.import_zip(file)))


WORK = (solve, think, replay, distil, search, words)
QUICK = (keep, discard, feedback, memories, memory, receipt, forget, neighbours, tag, note, quarantine, release, delete)
FILES = (export_bank, export_peft, import_bank)
ENDPOINTS = (*WORK, stream, *QUICK, *FILES)
