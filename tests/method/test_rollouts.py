"""What is streamed and what is decoded at the end, with tokenizers that fall back to bytes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers.decoders import DecodeStream

from latentmem.method.rollouts import Job, _Open, sample
from latentmem.model.language_model import SampledToken
from latentmem.records import Problem, Trace
from tests.tiny import tiny_model, tiny_tokenizer


def byte_fallback_tokenizer() -> Any:
    """As Llama 2's: 256 tokens that are bytes, made into characters when a text is decoded."""
    from tokenizers import Tokenizer, decoders, models

    words = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁the", "b"]
    core = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return core


def test_whole_characters_are_streamed_as_they_are_decoded() -> None:
    core = byte_fallback_tokenizer()
    ids = [1 + b for b in "x = 世é 3".encode()]
    one = _Open(0, 0)
    pieces = [one.heard(core, i) for i in ids]
    assert "".join(pieces) == core.decode(ids) == "x = 世é 3"
    assert pieces[4:7] == ["", "", "世"], "a character comes when its last byte has come"


def test_a_stream_goes_on_after_bytes_that_make_no_character() -> None:
    core = byte_fallback_tokenizer()
    ids = (1 + ord("x"), 1 + 0xE4, 257, 258, 257)  # x, the first byte of three, a word, b, a word
    stream = DecodeStream(skip_special_tokens=True)
    with pytest.raises(Exception, match="prefix"):
        [stream.step(core, i) for i in ids]
    one = _Open(0, 0)
    assert [one.heard(core, i) for i in ids] == ["x", "", "the", "b", " the"]


def scripted(*texts: str) -> Any:
    """A model whose rows write these texts, a byte a token, unless the consumer ends them."""
    tokenizer = tiny_tokenizer()
    coded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]

    def generate(_: Any, __: Any, *, stopped: Any, **___: Any) -> Any:
        live = list(range(len(coded)))
        for t in range(max(map(len, coded))):
            live = [row for row in live if t < len(coded[row]) and not stopped(row)]
            yield [SampledToken(row, coded[row][t], False, 0.0, 0.0) for row in live]

    return SimpleNamespace(tokenizer=tokenizer, render=lambda _: (), generate=generate)


TEXTS = (r"\boxed{} so \boxed{\frac{1}{2}} or \boxed{3}.", "no box, but {braces} here")


@pytest.mark.parametrize(
    "stop, answers, ends",
    [
        (False, ("3", None), TEXTS),
        (True, (r"\frac{1}{2}", None), (TEXTS[0].split(" or ")[0], TEXTS[1])),
    ],
)
def test_a_trace_may_end_at_its_first_box_that_holds_an_answer(
    stop: bool, answers: tuple[str, None], ends: tuple[str, str]
) -> None:
    how = {"seed": 0, "temperature": 1.0, "max_new_tokens": 60, "stop_at_box": stop}
    found = [r for _, r in sample(scripted(*TEXTS), [Job(Problem("?"), 2)], **how)]
    traces = sorted((r for r in found if isinstance(r, Trace)), key=lambda t: t.row)
    assert tuple(t.text for t in traces) == ends and tuple(t.answer for t in traces) == answers
    assert [t.finished for t in traces] == [stop, False]
    assert [t.tokens for t in traces] == [len(text) for text in ends]


def test_rows_that_the_consumer_ends_leave_the_others_as_they_are() -> None:
    model, job = tiny_model(), Job(Problem("1+1?"), 6)
    whole = {t.row: t for t in _traces(model, job)}
    seen: list[tuple[int, int]] = []
    ended: dict[int, int] = {}

    def boxed(one: _Open, _: str) -> bool:
        if one.row % 2:
            ended[one.row] = len(one.ids)
        return bool(one.row % 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Open, "boxed", boxed)
        found = _traces(
            model,
            job,
            stop_at_box=True,
            watch=lambda live, hidden: seen.extend((row, hidden.shape[1]) for row in live),
        )
    for t in found:
        before = whole[t.row].token_ids
        assert t.token_ids == before[: ended.get(t.row)]
        assert seen.count((t.row, model.hidden)) == t.tokens
    assert len(ended) > 1 and max(ended.values()) < 9


def _traces(model: Any, job: Job, **how: Any) -> list[Trace]:
    found = sample(model, [job], seed=0, temperature=1.0, max_new_tokens=9, **how)
    return [r for _, r in found if isinstance(r, Trace)]
