"""Named endpoints with typed parameters for `gradio_client` and, where it is switched on, the Model Context Protocol.

They do what the panels do, through the same functions. In a shared app a client works on its own memories and under the
same limits as a visitor. Files go through hidden components, because `gr.api` knows only JSON.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any, Literal

import gradio as gr

from ..records import Distilled, LatentmemError, Receipt, Trace, Vote, to_dict
from .api_answers import as_dict, given, kept, last, last_receipt, remember, said
from .api_notes import note, tag, words
from .api_stream import offer, stream
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
    receipt = last(records, Receipt)
    remember(desk, request, receipt)
    return as_dict(receipt)


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
    receipt = last_receipt(desk, request)
    try:
        again = last(exclusively(desk, desk.engine.replay(receipt)), Receipt)
    except gr.Error as e:
        return {"same": False, "receipt": receipt.id, "reason": str(e)}
    return {"same": again.token_digest == receipt.token_digest, "receipt": receipt.id, "reason": ""}


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


def feedback(desk: Desk, correct: bool, request: gr.Request = None) -> str:  # type: ignore[assignment]
    """Says whether the answer to this client's last question was right; it is taken down with the memory that was tried.

    Parameters:
        correct: was it right?
    """
    receipt = last_receipt(desk, request)
    said(lambda: desk.engine.feedback(receipt, correct))
    return receipt.id


def memories(desk: Desk, text: str = "", limit: int = 100) -> list[dict]:
    """Rows of the bank, newest first.

    Parameters:
        text: only those whose problem, answer or id contains this
        limit: at most so many, up to 1000
    """
    return [to_dict(i) for i in said(lambda: desk.engine.bank.infos(text=text or None, limit=max(1, min(limit, 1000))))]


def memory(desk: Desk, memory_id: str) -> dict:
    """One memory: its row, vote, steps, settings, last events, ids of receipts; without its arrays and traces.

    Parameters:
        memory_id: its id, or the beginning of it
    """
    bank = desk.engine.bank
    info, whole = said(lambda: (bank.info(memory_id), bank.get(memory_id)))
    events, asked = said(lambda: (bank.events(info.id, limit=100), bank.asked(info.id)))
    return to_dict(info) | {"vote": to_dict(whole.vote), "steps": [to_dict(s) for s in whole.steps],
                            "settings": dict(whole.settings), "events": [to_dict(e) for e in events],
                            "receipts": list(asked)}


def receipt(desk: Desk, receipt_id: str) -> dict:
    """The receipt of an earlier answer, as `solve` returned it but with its traces cut short.

    Parameters:
        receipt_id: its id, from `solve` or among the receipts and events of a `memory`
    """
    return as_dict(said(lambda: desk.engine.bank.receipt(receipt_id)))


def neighbours(desk: Desk, memory_id: str, k: int = 5) -> list[dict]:
    """The memories nearest to a memory, itself left out.

    Parameters:
        memory_id: its id
        k: how many
    """
    return [to_dict(h) for h in said(lambda: desk.engine.neighbours(memory_id, max(1, min(int(k), 100))))]


def quarantine(desk: Desk, memory_id: str, reason: str = "") -> str:
    """Keeps a memory from being tried. Returns its id.

    Parameters:
        memory_id: its id
        reason: one sentence, kept with it
    """
    return said(lambda: desk.engine.bank.quarantine(memory_id, reason[:500]).memory_id)


def release(desk: Desk, memory_id: str) -> str:
    """Lets a memory be tried again. Returns its id.

    Parameters:
        memory_id: its id
    """
    return said(lambda: desk.engine.bank.release(memory_id).memory_id)


def delete(desk: Desk, memory_id: str) -> str:
    """Deletes a memory for good. Returns its id.

    Parameters:
        memory_id: the whole id: a beginning is not enough
    """

    def gone() -> str:
        if memory_id not in desk.engine.bank:
            raise LatentmemError(f"There is no memory with the id {memory_id[:40]!r}: give the whole id.")
        desk.engine.bank.delete(memory_id)
        return memory_id

    return said(gone)


# ---------------------------------------------------------------- files
def export_bank(desk: Desk) -> str:
    """The bank as a zip; in a shared app the memories of one's own."""
    target = desk.fresh_folder() / "latentmem-bank.zip"
    said(lambda: desk.engine.bank.export_zip(target))
    return str(target)


def export_peft(desk: Desk, memory_id: str) -> str:
    """One memory as a zipped PEFT adapter folder."""
    bank, folder = desk.engine.bank, desk.fresh_folder()
    name = said(lambda: bank.info(memory_id).id)
    said(lambda: bank.export_peft(name, folder / name))
    return shutil.make_archive(str(folder / f"{name}-peft"), "zip", folder / name)


def import_bank(desk: Desk, file: str | None) -> dict:
    """Adds the memories of an exported zip that are not yet there. Returns how many came in and what was refused."""
    if not file:
        raise gr.Error("No file was sent: send the zip of an exported bank.", print_exception=False)
    return to_dict(said(lambda: desk.engine.bank.import_zip(file)))


WORK = (solve, think, replay, distil, search, words)
QUICK = (keep, discard, feedback, memories, memory, receipt, neighbours, tag, note, quarantine, release, delete)
FILES = (export_bank, export_peft, import_bank)
ENDPOINTS = (*WORK, stream, *QUICK, *FILES)
