"""A tiny random model with a byte tokenizer: real code paths, no downloaded weights, no sense in
its answers."""

from __future__ import annotations

from typing import Any

import torch

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_config(family: str = "qwen2", **changes: Any) -> Any:
    from transformers import LlamaConfig, Qwen2Config, Qwen3Config

    kind = {"qwen2": Qwen2Config, "llama": LlamaConfig, "qwen3": Qwen3Config}[family]
    if family == "qwen3":  # whose heads have a size of their own
        changes = {"head_dim": 8, **changes}
    return kind(
        **{
            "vocab_size": 258,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
            "eos_token_id": 257,
            "pad_token_id": 257,
            "bos_token_id": None,
            **changes,
        }
    )


def tiny_hf(family: str = "qwen2", seed: int = 0, **changes: Any) -> Any:
    """A transformers model in float32 with random weights, a little larger than the usual start so
    that it has opinions."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        tiny_config(family, initializer_range=0.15, **changes), dtype=torch.float32
    )
    for weight in model.parameters():  # as published weights are: stored in bfloat16
        weight.data = weight.data.bfloat16().float()
    return model.eval()


def tiny_model(family: str = "qwen2", seed: int = 0, **changes: Any) -> Any:
    from latentmem.model.language_model import LanguageModel

    return LanguageModel.of(
        tiny_hf(family, seed, **changes),
        tiny_tokenizer(),
        name="tiny",
        fingerprint=f"tiny-{family}-{seed}",
    )
