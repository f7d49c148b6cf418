"""The words nearest to a virtual token, and the size of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from latentmem.model import vocabulary
from latentmem.records import LatentmemError
from tests.bank_samples import make_memory
from tests.tiny import tiny_hf, tiny_model, tiny_tokenizer


def test_the_nearest_words_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "CHUNK", 50)  # 258 words in six chunks
    torch.manual_seed(0)
    table = torch.randn(258, 16)
    table[7] = 0  # a word that was never trained
    prompt = torch.randn(4, 16).numpy()
    prompt[2] = 3 * table[65].numpy()
    found = vocabulary.nearest_words(table, tiny_tokenizer(), prompt, 3)
    unit = table / table.norm(dim=1, keepdim=True).clamp_min(1e-12)
    exact = torch.from_numpy(prompt / np.linalg.norm(prompt, axis=1, keepdims=True)) @ unit.T
    for row, scores in zip(found, exact, strict=True):
        assert [w.token for w in row] == [
            int(i) for i in scores.argsort(descending=True) if i != 7
        ][:3]
        assert [w.cosine for w in row] == pytest.approx(
            sorted(scores.tolist(), reverse=True)[:3], abs=1e-5
        )
    assert found[2][0].token == 65 and found[2][0].cosine == pytest.approx(1)
    assert found[2][0].text == tiny_tokenizer().decode([65])
    with pytest.raises(LatentmemError, match="16 numbers a token and the model's words have 8"):
        vocabulary.nearest_words(table[:, :8], tiny_tokenizer(), prompt)


def test_words_of_a_memory_need_the_model_that_made_it() -> None:
    model = tiny_model()
    mine = make_memory(1, hidden=32, model=model.fingerprint)
    assert [len(row) for row in vocabulary.memory_words(model, mine, 2)] == [2] * 4
    with pytest.raises(LatentmemError, match="made by name1 and the model in use is tiny"):
        vocabulary.memory_words(model, make_memory(1, hidden=32))


@pytest.mark.parametrize("tied", [True, False])
def test_the_size_of_a_model_is_what_transformers_counts(tied: bool) -> None:
    expected = sum(p.numel() for p in tiny_hf(tie_word_embeddings=tied).parameters())
    assert vocabulary.parameters(tiny_model(tie_word_embeddings=tied)) == expected
