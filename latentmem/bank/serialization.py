"""A Memory as bytes and back: JSON for words, safetensors for numbers, sha256 over each. No SQL and
no files here.

Bytes from the disk or from an archive are untrusted: `unpack` checks every member, shape and
number, and that the id and the digest are hashes of the content. The id covers what a memory is for
and its soft prompt; the digest covers every part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar, get_args

import numpy as np

from ..records import (
    Event,
    KeyKind,
    LatentmemError,
    Memory,
    Problem,
    Receipt,
    Step,
    Trace,
    Vote,
    digest,
    from_json,
)

T = TypeVar("T")
PARTS = ("record", "traces", "steps", "soft_prompt")
# kv keys are long (layers x heads x 2): float16 halves them.
KEY_DTYPE = {"input": "<f4", "kv": "<f2"}
UNIT_TOLERANCE = 1e-3  # a unit vector rounded to float16 is off by up to 5e-4
# Numbers of a key. A model without grouped heads makes long ones: Llama-2-13B kv keys of 409,600.
MOST_KEY = 1 << 20
# Size of a number in a soft prompt. Embeddings are below 10; an overflow in bfloat16 breaks a whole
# batch.
MOST_NUMBER = 1e4
FILE = {"path", "meta"}
# Characters of a trace in a stored receipt; the votes hold what it decided.
MOST_TEXT = 200
# The columns of a memory's row that its checksum covers.
ROW = (
    "id name problem_id problem_text problem_answer source label majority_ratio model model_name "
    "virtual_tokens hidden best_step created at keys states digest"
).split()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
assert KEY_DTYPE.keys() == set(get_args(KeyKind))


@dataclass(frozen=True)
class Record:
    """A Memory without its arrays, traces and curve."""

    problem: Problem
    model: str
    model_name: str
    vote: Vote
    best_step: int
    settings: Mapping[str, Any]
    created: str


@dataclass(frozen=True)
class Packed:
    """A Memory as bytes. `parts` has the four PARTS; `keys` maps kind -> safetensors bytes."""

    id: str
    parts: Mapping[str, bytes]
    keys: Mapping[str, bytes]
    digest: str = ""  # of `content`; "" where it is not known yet


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def bound(memory_id: str, name: str, data: Any) -> str:
    """The checksum of a part or key: under another memory, or as another part, it is wrong. ""
    for what is not bytes."""
    return digest(memory_id, name, data) if isinstance(data, bytes) else ""


# ------------------------------------------------------------------ time
def stamp(created: str) -> int:
    """Microseconds since 1970 of an ISO 8601 time; a time without a zone is UTC. Raises
    LatentmemError."""
    try:
        time = datetime.fromisoformat(created)
        return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH) // timedelta(
            microseconds=1
        )
    except (ValueError, TypeError, OverflowError):
        raise LatentmemError(
            f"The time {str(created)[:40]!r} is not ISO 8601: write it like "
            "2026-01-31T12:00:00+00:00."
        ) from None


def iso(at: int) -> str:
    return (EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds")


def now() -> int:
    return (datetime.now(UTC) - EPOCH) // timedelta(microseconds=1)


# ------------------------------------------------------------------ JSON
def dump(value: Any, what: str) -> bytes:
    """Compact JSON in UTF-8. Raises LatentmemError for NaN, infinity, half a surrogate pair, and
    objects."""
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
    except (TypeError, ValueError, RecursionError) as e:
        raise LatentmemError(
            f"{what} cannot be written as JSON ({e}): use finite numbers and plain values."
        ) from None


# ------------------------------------------------------------------ arrays
def save_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    from safetensors.numpy import save

    # safetensors reads raw memory: a strided view would be written as whatever lies between its
    # numbers.
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def load_arrays(data: bytes, what: str) -> dict[str, np.ndarray]:
    """Arrays from untrusted safetensors bytes, as writable copies."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return {name: np.array(array) for name, array in load(data).items()}
    except (SafetensorError, ValueError, TypeError, KeyError) as e:
        raise LatentmemError(f"{what} is not valid safetensors ({str(e)[:120]}).") from None


def read_prompt(data: Any, checksum: str, ident: str) -> np.ndarray | None:
    """The numbers of a memory, float32, in a row of the table of parts, None if it is damaged."""
    if bound(ident, "soft_prompt", data) != checksum:
        return None
    try:
        prompt = load_arrays(data, ident).get("soft_prompt")
    except LatentmemError:
        return None
    if prompt is None or not has_form(prompt.shape) or not np.isfinite(prompt).all():
        return None
    return prompt.astype(np.float32, copy=False)


def save_key(kind: str, key: np.ndarray) -> bytes:
    return save_arrays({"key": key.astype(KEY_DTYPE[kind])})


# ------------------------------------------------------------------ checks
def has_form(shape: tuple[int, ...]) -> bool:
    """Whether an array may be a soft prompt [virtual tokens, hidden] or layer vectors [layers, 1,
    hidden]."""
    return 0 not in shape and (len(shape) == 2 or (len(shape) == 3 and shape[1] == 1))


def check_prompt(prompt: Any) -> None:
    if (
        not isinstance(prompt, np.ndarray)
        or prompt.dtype != np.float32
        or not has_form(prompt.shape)
    ):
        raise LatentmemError(
            f"The soft prompt is {_describe(prompt)}: it must be a float32 array [virtual tokens, "
            "hidden], or layer vectors [layers, 1, hidden]."
        )
    if not np.isfinite(prompt).all():
        raise LatentmemError(
            "The soft prompt holds NaN or infinity: distil again with a lower learning rate."
        )
    if (most := float(np.abs(prompt).max())) > MOST_NUMBER:
        raise LatentmemError(
            f"The soft prompt holds a number of size {most:.3g}, more than the {MOST_NUMBER:g} "
            "allowed: distil again with a lower learning rate."
        )


def check_key(kind: str, key: Any) -> None:
    if kind not in KEY_DTYPE:
        raise LatentmemError(
            f"There is no kind of key {str(kind)[:40]!r}: use {' or '.join(KEY_DTYPE)}."
        )
    if not isinstance(key, np.ndarray) or key.dtype != np.float32 or key.ndim != 1 or not key.size:
        raise LatentmemError(
            f"The {kind} key is {_describe(key)}: it must be a float32 vector [d]."
        )
    if key.size > MOST_KEY:  # search keeps all keys in memory
        raise LatentmemError(
            f"The {kind} key has {key.size} numbers, more than the {MOST_KEY} allowed: make it "
            "with a smaller model."
        )
    norm = float(np.linalg.norm(key.astype(np.float64)))
    if not np.isfinite(norm):
        raise LatentmemError(f"The {kind} key holds NaN or infinity: compute it again.")
    if abs(norm - 1) > UNIT_TOLERANCE:
        raise LatentmemError(f"The {kind} key has length {norm:.4g}, not 1: divide it by its norm.")


def check_plain(values: Mapping[str, Any], what: str) -> None:
    """Only flat values: gradio would take a stranger's object with "path" and "meta" for a file of
    the server."""
    if values.keys() >= FILE:
        raise LatentmemError(f"{what} 'path' stands beside 'meta': leave one of them out.")
    for name, value in values.items():
        if not _is_plain(value):
            raise LatentmemError(
                f"{what} {str(name)[:40]!r} is of type {type(value).__name__}: write text, a "
                "number, true, false or null."
            )


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the values that `check_plain` refuses: an older latentmem accepted them."""
    return {
        k: v
        for k, v in values.items()
        if _is_plain(v) and not (k == "meta" and values.keys() >= FILE)
    }


def _describe(value: Any) -> str:
    return (
        f"{value.dtype} {value.shape}"
        if isinstance(value, np.ndarray)
        else f"a {type(value).__name__}"
    )


def check(memory: Memory) -> None:
    """Raises LatentmemError with the first thing that would make the memory unusable."""
    check_prompt(memory.soft_prompt)
    if not memory.keys:
        raise LatentmemError(
            "The memory has no key, so nothing could find it: add an input or a kv key."
        )
    for kind, key in memory.keys.items():
        check_key(kind, key)
    if not memory.model:
        raise LatentmemError(
            "The memory names no model: set `model` to the fingerprint of the model that made it."
        )
    vote = memory.vote
    if vote.clusters and not 1 <= sum(len(c.rows) for c in vote.clusters) <= vote.total:
        raise LatentmemError(
            f"The vote counts more answers than its total of {vote.total} traces: vote again."
        )
    if not 0 <= memory.best_step < 2**31:
        raise LatentmemError(f"best_step = {memory.best_step} is not a step: use 0 or more.")
    check_plain(memory.settings, "The memory's setting")
    if memory.created:
        stamp(memory.created)


# ------------------------------------------------------------------ memories and events
def content(memory: Memory) -> dict[str, bytes]:
    """Everything a memory holds, by name, in one form whatever bytes it was read from."""
    prompt = np.ascontiguousarray(memory.soft_prompt, "<f4")
    keys = {kind: np.ascontiguousarray(k, KEY_DTYPE[kind]) for kind, k in memory.keys.items()}
    words = {
        f.name: dump(_canonical(getattr(memory, f.name)), "The memory")
        for f in fields(memory)
        if f.name not in ("soft_prompt", "keys")
    }
    arrays = {"soft prompt": prompt, **{f"{kind} key": keys[kind] for kind in sorted(keys)}}
    return words | {n: f"{a.shape}".encode() + a.tobytes() for n, a in arrays.items()}


_PLAIN = {str, int, float, bool, type(None)}


def _canonical(value: Any) -> Any:
    """Plain values with sorted names. A member at its default is left out, so that one which a
    later latentmem adds changes no digest."""
    if type(value) in _PLAIN:
        return value
    if is_dataclass(value):
        kind: Any = type(value)
        return {
            name: _canonical(member)
            for name, default in _members(kind)
            if (member := getattr(value, name)) is not default and member != default
        }
    if isinstance(value, Mapping):
        return {name: _canonical(value[name]) for name in sorted(value)}
    return [_canonical(one) for one in value] if isinstance(value, tuple) else value


@cache
def _members(kind: Any) -> list[tuple[str, Any]]:
    """The names of a record's members, sorted, with their defaults."""
    return sorted((f.name, f.default) for f in fields(kind))


def digest_of(memory: Memory) -> str:
    """64 hex digits over every part of a memory that was read back from bytes."""
    return digest("latentmem memory 1", *(x for pair in content(memory).items() for x in pair))


def pack(memory: Memory) -> Packed:
    """The bytes of a memory, read back once to be sure. Raises LatentmemError."""
    check(memory)
    record = Record(
        memory.problem,
        memory.model,
        memory.model_name,
        memory.vote,
        memory.best_step,
        dict(memory.settings),
        memory.created,
    )
    try:
        packed = Packed(
            id=memory.id,
            parts={
                "record": dump(asdict(record), "The memory"),
                "traces": dump([asdict(t) for t in memory.traces], "A trace of the memory"),
                "steps": dump([asdict(s) for s in memory.steps], "A step of the memory"),
                "soft_prompt": save_arrays({"soft_prompt": memory.soft_prompt.astype("<f4")}),
            },
            keys={kind: save_key(kind, key) for kind, key in sorted(memory.keys.items())},
        )
    except UnicodeEncodeError as e:
        raise LatentmemError(
            f"The problem holds half a character ({e.reason}): type it again."
        ) from None
    return replace(packed, digest=digest_of(unpack(packed)))


def unpack(packed: Packed) -> Memory:
    """The memory in untrusted bytes. Raises LatentmemError when any of it is wrong, or its id or
    its digest is not its hash."""
    memory, name = read(packed), f"Memory {packed.id}"
    try:
        check(memory)
    except LatentmemError as e:
        raise LatentmemError(f"{name}: {e}") from None
    if memory.id != packed.id:
        raise LatentmemError(
            f"{name} is not what its id says (its content hashes to {memory.id}): fetch it again."
        )
    if packed.digest and digest_of(memory) != packed.digest:
        raise LatentmemError(
            f"{name} is not what its digest {packed.digest[:16]} says: one of its parts was "
            "changed, so fetch it again."
        )
    return memory


def read(packed: Packed) -> Memory:
    """The memory in untrusted bytes, before anything about it is checked but its types. Raises
    LatentmemError."""
    name = f"Memory {packed.id}"
    record = from_json(Record, packed.parts["record"], name)
    arrays = load_arrays(packed.parts["soft_prompt"], f"{name}: the soft prompt")
    if "soft_prompt" not in arrays:
        raise LatentmemError(f"{name} has no soft prompt: delete it, or import it again.")
    keys = {}
    for kind, data in packed.keys.items():
        key = load_arrays(data, f"{name}: the {kind} key").get("key")
        if key is None or kind not in KEY_DTYPE or key.dtype != np.dtype(KEY_DTYPE[kind]):
            raise LatentmemError(
                f"{name}: the {kind} key is not {KEY_DTYPE.get(kind, 'a known kind')}."
            )
        keys[kind] = key.astype(np.float32)
    return Memory(
        problem=record.problem,
        soft_prompt=arrays["soft_prompt"],
        keys=keys,
        model=record.model,
        model_name=record.model_name,
        vote=record.vote,
        best_step=record.best_step,
        settings=_flat(record.settings),
        traces=from_json(tuple[Trace, ...], packed.parts["traces"], f"{name}: traces"),
        steps=from_json(tuple[Step, ...], packed.parts["steps"], f"{name}: steps"),
        created=record.created,
    )


def row_of(memory: Memory, at: int, digest: str) -> dict[str, Any]:
    """The columns of the table of memories: what a listing needs without opening the parts, the
    kinds of keys there are, and the digest. `states` and the checksum come with `checked`."""
    tokens, *_, hidden = memory.soft_prompt.shape
    p = memory.problem
    return {
        "id": memory.id,
        "name": memory.name,
        "problem_id": p.id,
        "problem_text": p.text,
        "problem_answer": p.answer,
        "source": p.source,
        "label": memory.label,
        "majority_ratio": memory.vote.majority_ratio,
        "model": memory.model,
        "model_name": memory.model_name,
        "virtual_tokens": tokens,
        "hidden": hidden,
        "best_step": memory.best_step,
        "created": memory.created,
        "at": at,
        "keys": ",".join(sorted(memory.keys)),
        "digest": digest,
    }


def checked(row: Mapping[str, Any], states: int) -> dict[str, Any]:
    """A row of the table of memories with the number of its events that quarantine or release it,
    and with its checksum."""
    whole = {name: row[name] for name in ROW if name != "states"} | {"states": states}
    return whole | {"sha256": _checksum(whole)}


def _checksum(row: Mapping[str, Any]) -> str:
    return sha256(dump([row[name] for name in ROW], "The entry"))


def row_is_whole(row: Mapping[str, Any]) -> bool:
    """Whether a row of the table of memories is what was written."""
    try:
        return _checksum(row) == str(row["sha256"])
    except LatentmemError:  # bytes or an infinite number where none was written
        return False


def event_row(event: Event) -> dict[str, Any]:
    """The columns of a complete event (id and created set), with a checksum over them."""
    detail = dump(dict(event.detail), "The detail of the event").decode()
    words = {
        "id": event.id,
        "memory_id": event.memory_id,
        "kind": event.kind,
        "problem_id": event.problem_id,
        "receipt_id": event.receipt_id,
        "detail": detail,
        "created": event.created,
    }
    return words | {"at": stamp(event.created), "sha256": digest(*words.values())}


def event_is_whole(row: Mapping[str, Any]) -> bool:
    """Whether a row of the table of events is what was written."""
    words = [
        row[c] for c in ("id", "memory_id", "kind", "problem_id", "receipt_id", "detail", "created")
    ]
    try:
        return (
            all(isinstance(w, str) for w in words)
            and digest(*words) == row["sha256"]
            and stamp(row["created"]) == row["at"]
        )
    except LatentmemError:  # no time
        return False


def event_of(row: Mapping[str, Any]) -> Event:
    """The event in a whole row."""
    detail = from_json(dict[str, Any], row["detail"], f"Event {row['id']}: its detail")
    return Event(
        row["memory_id"],
        row["kind"],
        row["problem_id"],
        row["receipt_id"],
        _flat(detail),
        row["created"],
        row["id"],
    )


# ------------------------------------------------------------------ receipts
def receipt_row(receipt: Receipt) -> dict[str, Any]:
    """The columns of a stored receipt, `size` in bytes. Keeps all but the token ids, which the
    digest stands for, and the text of a trace after MOST_TEXT characters. Raises LatentmemError."""
    short = [
        replace(t, text=t.text if len(t.text) <= MOST_TEXT else t.text[: MOST_TEXT - 1] + "…")
        for t in receipt.traces
    ]
    whole = asdict(replace(receipt, traces=()))
    whole["traces"] = [{k: v for k, v in asdict(t).items() if k != "token_ids"} for t in short]
    body = dump(whole, "The receipt")
    words = {"id": receipt.id, "problem": receipt.problem.text, "body": body.decode()}
    return {**words, "size": len(body), "sha256": digest(*words.values())}


def receipt_of(row: Mapping[str, Any]) -> Receipt:
    """The receipt in a row that may be damaged. Raises LatentmemError."""
    words = [row["id"], row["problem"], row["body"]]
    if not all(isinstance(w, str) for w in words) or digest(*words) != row["sha256"]:
        raise LatentmemError(f"Receipt {row['id']} is damaged: its checksum does not match.")
    return from_json(Receipt, row["body"], f"Receipt {row['id']}")
