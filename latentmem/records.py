"""The frozen records that travel between the parts of latentmem: long work is a generator of them.
Arrays are numpy float32, so that a record can be made, stored and shown without importing torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

if TYPE_CHECKING:
    import numpy as np

Side = Literal["zero_shot", "memory"]
KeyKind = Literal["input", "kv"]
VerifierName = Literal["vote_share", "self_certainty", "judge"]
EventKind = Literal[
    "retrieved",
    "used",
    "agreed",
    "verifier_won",
    "helped",
    "hurt",
    "feedback",
    "quarantined",
    "released",
    "note",
    "tag",
    "imported",
    "trusted",
]
R = TypeVar("R")
MOST_TOKENS = 512  # virtual tokens of a soft prompt that is made, or comes in an archive


class LatentmemError(ValueError):
    """An error that a user can cause and fix. The message is one sentence: what, value, remedy."""


def tried(store: Callable[[], object]) -> LatentmemError | None:
    """The error of storing, None if it worked. A full disk or a locked bank must not lose what was
    computed, so the caller reports the error last."""
    try:
        store()
    except LatentmemError as e:
        return e
    return None


def digest(*parts: bytes | str) -> str:
    """sha256 (hex, 64 characters) of the parts, each preceded by its length so that ('ab', 'c') is
    not ('a', 'bc')."""
    h = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        h.update(len(data).to_bytes(8, "big"))
        h.update(data)
    return h.hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """A question. `answer` is ground truth for scoring afterwards; nothing that learns or routes
    may read it."""

    text: str
    id: str = ""
    answer: str | None = None
    source: str = ""  # the data set it came from, "" when typed by a person

    def __post_init__(self) -> None:
        for name in ("text", "id", "source"):  # the answer is not even looked at
            if not isinstance(value := getattr(self, name), str):
                raise LatentmemError(f"The problem's {name} is {value!r:.60}: give a string.")
        if not self.text.strip():
            raise LatentmemError("The problem is empty: type a question first.")
        if not self.id:
            object.__setattr__(self, "id", "p" + digest(self.text.strip())[:12])

    def unlabelled(self) -> Problem:
        """The same problem without its ground truth: what the learner is given."""
        return replace(self, answer=None)


@dataclass(frozen=True, slots=True)
class Status:
    """Progress of something long, in words: `done` of `total` units (total 0: unknown)."""

    text: str
    done: float = 0
    total: float = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one rollout while it is being sampled."""

    row: int
    text: str
    side: Side = "zero_shot"


@dataclass(frozen=True, slots=True)
class Trace:
    """One sampled rollout. It votes only if it reached end-of-sequence (`finished`) and has a boxed
    `answer`."""

    row: int
    text: str
    answer: str | None
    finished: bool
    tokens: int
    side: Side = "zero_shot"
    token_ids: tuple[int, ...] = ()
    self_certainty: float | None = None  # mean KL from the uniform distribution, nats (2505.19590)
    entropy: float | None = None  # mean entropy of the sampling distribution, nats
    seconds: float = 0.0

    @property
    def votes(self) -> bool:
        return self.finished and self.answer is not None


@dataclass(frozen=True, slots=True)
class Cluster:
    """Traces whose answers are equivalent. `answer` is the first one's, as written; `rows` are
    Trace.row, ascending."""

    answer: str
    rows: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Vote:
    """The majority vote over `total` traces, of which `voters` were finished and boxed.

    `clusters` are sorted: most votes first, ties by the earliest row. `majority_ratio` is the
    winner's votes divided by `total` (TTRL, 2504.16084); `margin` is the winner's lead over the
    runner-up in votes. `label` is None when nobody votes (an abstention). `decided`: no outcome of
    the traces still open can change the label.
    """

    clusters: tuple[Cluster, ...]
    total: int
    voters: int
    decided: bool = True
    side: Side = "zero_shot"

    @property
    def label(self) -> str | None:
        return self.clusters[0].answer if self.clusters else None

    @property
    def abstained(self) -> bool:
        return not self.clusters

    @property
    def majority_ratio(self) -> float:
        return self.clusters[0].size / self.total if self.clusters else 0.0

    @property
    def margin(self) -> int:
        if not self.clusters:
            return 0
        return self.clusters[0].size - (self.clusters[1].size if len(self.clusters) > 1 else 0)


@dataclass(frozen=True, slots=True)
class Step:
    """One gradient step of a distillation: its fresh rollouts, if it sampled any, their rewards,
    and what the update did."""

    step: int  # counts from 1
    steps: int
    label: str | None  # the majority of this step's rollouts
    # majority_ratio of the rollouts with the memory before this step, None where none were sampled
    agreement: float | None
    rewards: tuple[float, ...]
    loss: float
    grad_norm: float  # before clipping
    # rms distance of the soft prompt from its start, relative to the start's rms; of layer vectors
    # their rms in units of `LanguageModel.layer_scale`
    shift: float
    finished: float  # share of rollouts that finished with a box
    length: float  # mean tokens a rollout
    entropy: float  # mean nats a token
    tokens: int  # sampled in this step
    seconds_rollout: float
    seconds_train: float
    problem_id: str = ""
    note: str = ""  # why no gradient was taken, if none was

    @property
    def seconds(self) -> float:
        return self.seconds_rollout + self.seconds_train

    @property
    def final(self) -> bool:
        """Whether it is the check after the last step: rollouts of the final prompt, and no
        gradient."""
        return self.step > self.steps

    @property
    def title(self) -> str:
        return "final check" if self.final else f"step {self.step} of {self.steps}"


@dataclass(frozen=True, eq=False)
class Memory:
    """A latent memory: its numbers, the keys that find it, and where it came from. Immutable."""

    problem: Problem
    # float32: a soft prompt [virtual tokens, hidden], or layer vectors [layers, 1, hidden]
    soft_prompt: np.ndarray
    keys: Mapping[str, np.ndarray]  # kind -> unit vector [d], float32
    model: str  # fingerprint of the model that made it
    model_name: str
    vote: Vote  # the vote that gave the pseudo-label, before training
    traces: tuple[Trace, ...]  # the traces of that vote
    steps: tuple[Step, ...]  # the curve
    best_step: int  # the prompt kept is the one after this step (0: the untrained start)
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the distillation
    created: str = ""  # ISO 8601, UTC

    @property
    def id(self) -> str:
        """'m' and 16 hex digits: a hash of the problem, the model, the pseudo-label and the soft
        prompt's bytes."""
        import numpy as np

        prompt = np.ascontiguousarray(self.soft_prompt, dtype="<f4")
        shape = "x".join(map(str, prompt.shape))
        p = self.problem
        return (
            "m"
            + digest(p.id, p.text, p.source, self.model, self.label or "", shape, prompt.tobytes())[
                :16
            ]
        )

    @property
    def label(self) -> str | None:
        return self.vote.label

    @property
    def name(self) -> str:
        """A short readable name: the first words of the problem."""
        text = " ".join(self.problem.text.split())
        return text if len(text) <= 48 else text[:47].rsplit(" ", 1)[0] + "…"


@dataclass(frozen=True, slots=True)
class Counters:
    """How a memory was used: sums over its events."""

    retrieved: int = 0
    used: int = 0
    agreed: int = 0
    verifier_won: int = 0
    helped: int = 0
    hurt: int = 0


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """A row of the bank's table: everything about a memory but its arrays, traces and curve."""

    id: str
    name: str
    problem: Problem
    label: str | None
    majority_ratio: float
    model: str
    model_name: str
    virtual_tokens: int
    hidden: int
    best_step: int
    created: str
    quarantined: bool
    counters: Counters
    digest: str = ""  # 64 hex digits over every part; "" where a part was damaged by then
    shut: str = ""  # why it is not used, where nobody quarantined it


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a memory; append-only. `detail` is a JSON object of plain
    values."""

    memory_id: str
    kind: EventKind
    problem_id: str = ""
    receipt_id: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    id: str = ""  # unique; set by the bank when empty, so that importing an event twice is harmless


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved memory. `rank` counts from 1; `similarity` is cosine; `margin` is the lead over
    the next hit."""

    memory_id: str
    name: str
    similarity: float
    rank: int
    margin: float | None = None  # None for the last memory in the bank
    passed_over: str = ""  # why a nearer memory than the one that was tried was not tried itself


@dataclass(frozen=True, slots=True)
class Retrieval:
    """What was found for a problem, best first, before anything is answered with it."""

    problem_id: str
    kind: KeyKind
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """Which side answers. `side` is None when neither side has an answer; `reason` is one plain
    sentence."""

    side: Side | None
    answer: str | None
    agreed: bool
    reason: str
    # Side -> verifier score, when they disagreed.
    scores: Mapping[str, float] = field(default_factory=dict)
    verifier: str = ""
    probation: str = ""  # why the memory could not answer, whatever it said (`trust.probation`)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Which memory answered, and why. Everything needed to judge the answer and to replay it."""

    id: str
    problem: Problem
    answer: str | None
    memory_id: str | None  # the memory whose side was chosen, None when no memory answered
    memory_name: str
    hits: tuple[Hit, ...]
    used: Hit | None  # the hit whose memory was tried (whether or not it won)
    key_kind: KeyKind
    zero_shot: Vote
    memory: Vote | None
    route: Route
    seed: int
    model: str
    model_name: str
    tokens: int
    seconds: float
    settings: Mapping[str, Any]
    token_digest: str  # sha256 over the token ids of every trace: what a replay must reproduce
    traces: tuple[Trace, ...] = ()
    created: str = ""

    def sampled(self, side: Side) -> int:
        """How many traces of a side ended before its vote: all, unless it was stopped when
        decided."""
        return sum(t.side == side for t in self.traces)

    def sentence(self) -> str:
        """The receipt in words."""
        said = f"The answer is {self.answer}" if self.answer is not None else "No answer was found"
        if self.used is None:
            return f"{said}. No memory was used: {self.route.reason}"
        who = (
            f"memory {self.used.memory_id} (“{self.used.name}”, similarity "
            f"{self.used.similarity:.2f})"
        )
        if self.memory_id is not None:
            return f"{said}, answered by {who}. {self.route.reason}"
        if self.route.agreed:
            return f"{said}; {who} agrees with the model alone. {self.route.reason}"
        return f"{said}; {who} was tried and not followed. {self.route.reason}"


@dataclass(frozen=True, slots=True)
class Distilled:
    """The end of a distillation: a memory, or in plain words why there is none."""

    problem_id: str
    memory: Memory | None
    reason: str
    steps: tuple[Step, ...] = ()
    kept: bool = False  # True once the bank has acknowledged it


# What the engine's generators yield.
Record = Status | Delta | Trace | Vote | Step | Retrieval | Receipt | Distilled


def to_dict(record: Any) -> dict[str, Any]:
    """A record as plain JSON values. Not for Memory, whose arrays the bank stores."""
    assert not isinstance(record, Memory), "a Memory is stored by the bank"
    return asdict(record)


def to_json(record: Any) -> str:
    """One line of JSON. Refuses NaN and infinity: no JSON reader outside Python takes them."""
    return json.dumps(to_dict(record), ensure_ascii=False, allow_nan=False)


def from_json(kind: type[R], text: str | bytes, what: str = "") -> R:
    """A record of the given kind from untrusted JSON, every member checked; `what` names the text
    in an error.

    Raises LatentmemError naming the first member that is wrong. Refuses numbers that are not
    finite: no sum survives them.
    """
    from pydantic import ValidationError

    what = what or kind.__name__
    try:
        return _checker(cast(Any, kind)).validate_python(
            (json.loads(text, parse_constant=_finite, parse_float=_finite),)
        )[0]
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"][1:])) or "record"
        where = where if where.isprintable() else repr(where)
        raise LatentmemError(
            f"{what}: {where}: {first['msg']} (got {str(first['input'])[:80]!r})."
        ) from None
    except (
        ValueError,
        RecursionError,
    ) as e:  # also JSONDecodeError, UnicodeDecodeError, integers of 4300 digits
        raise LatentmemError(f"{what} is not valid JSON ({str(e)[:120]}).") from None


@cache
def _checker(kind: type) -> Any:
    """The checker of a tuple of one record, because pydantic takes no config for a dataclass.
    Cached: compiling takes longer than checking."""
    from pydantic import ConfigDict, TypeAdapter

    one: Any = tuple[kind]  # type: ignore[valid-type]
    return TypeAdapter(one, config=ConfigDict(allow_inf_nan=False))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value
