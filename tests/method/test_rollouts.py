"""What is streamed and what is decoded at the end, with tokenizers that fall back to bytes."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers.decoders import DecodeStream

from latentmem.method.rollouts import _Open


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
