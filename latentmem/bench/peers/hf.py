"""transformers' own `generate`, and the probe for the dtype that suits it on this machine."""

from __future__ import annotations

import time
from typing import Any

from ..workloads import PROBLEMS, Side, Work

PROBED = 8  # tokens of the probe's rollouts


class Generator:
    """A transformers model and its tokenizer, asked for rollouts of exactly the same length as
    ours."""

    def __init__(self, work: Work) -> None:
        import torch

        from ...model.language_model import pick_device
        from ...model.weights import ensure

        self.work, path = work, ensure(work.model).path
        self.device = pick_device(work.device)
        self.model, self.tokenizer = load(str(path), getattr(torch, work.peer_dtype))
        self.model.to(self.device)
        # No row may end early: ours do not either.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = self.tokenizer.pad_token_id or 0

    def ids(self, text: str) -> Any:
        """Token ids [1, n] of a problem in its chat."""
        from ...method.prompts import solve_messages

        chat = self.tokenizer.apply_chat_template(
            solve_messages(text), tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(chat, add_special_tokens=False, return_tensors="pt").input_ids.to(
            self.device
        )

    def rollouts(self, tokens: int, **inputs: Any) -> int:
        """One call of `generate`; how many tokens it made. top_k is off: its default of 50 costs
        more and is not exact."""
        import torch

        mask = torch.ones(
            next(iter(inputs.values())).shape[:2], dtype=torch.long, device=self.device
        )
        with torch.inference_mode():
            made = self.model.generate(
                **inputs,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=self.work.temperature,
                max_new_tokens=tokens,
                num_return_sequences=self.work.rollouts,
            )
        before = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        assert made.shape == (self.work.rollouts, before + tokens), made.shape
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.work.rollouts * tokens

    def soft_inputs(self, text: str, scale: float) -> Any:
        """Input embeddings [1, virtual tokens + n, hidden] of a problem behind a soft prompt."""
        import torch

        embed = self.model.get_input_embeddings()
        with torch.no_grad():
            init = self.tokenizer(self.work.init_text, add_special_tokens=False).input_ids
            ids = torch.tensor(
                [init[i % len(init)] for i in range(self.work.virtual_tokens)], device=self.device
            )
            return torch.cat((embed(ids)[None] * scale, embed(self.ids(text))), 1)


def load(path: str, dtype: Any) -> tuple[Any, Any]:
    """Model and tokenizer of a folder of weights."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    return model.eval(), AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def one_problem(work: Work) -> Side:
    """`generate(do_sample=True, num_return_sequences=rollouts)`: tokens a second."""
    generator = Generator(work)
    ids = generator.ids(PROBLEMS[0].text)
    generator.rollouts(PROBED, input_ids=ids)  # warms up
    return Side(lambda: _speed(generator, [{"input_ids": ids}]))


def four_problems(work: Work) -> Side:
    """Four such calls one after another, each with its own soft prompt in front: tokens a second."""
    generator = Generator(work)
    calls = [
        {"inputs_embeds": generator.soft_inputs(p.text, 1 + i / 10)}
        for i, p in enumerate(PROBLEMS[:4])
    ]
    generator.rollouts(PROBED, **calls[0])  # warms up
    return Side(lambda: _speed(generator, calls))


def _speed(generator: Generator, calls: list[dict[str, Any]]) -> float:
    began = time.perf_counter()
    made = sum(generator.rollouts(generator.work.tokens, **call) for call in calls)
    return made / (time.perf_counter() - began)


def probe_decode(work: Work) -> Side:
    """Seconds of a few tokens of rollouts."""
    generator = Generator(work)
    ids = generator.ids(PROBLEMS[0].text)
    generator.rollouts(2, input_ids=ids)  # warms up
    return Side(lambda: _decode_seconds(generator, ids))


def _decode_seconds(generator: Generator, ids: Any) -> float:
    began = time.perf_counter()
    generator.rollouts(PROBED, input_ids=ids)
    return time.perf_counter() - began


def probe_train(work: Work) -> Side:
    """Seconds of one training step as both its parts suggest: rollouts, and forward and backward of
    their tokens."""
    import torch

    generator = Generator(work)
    ids = generator.ids(PROBLEMS[0].text)
    model, rows = generator.model.requires_grad_(False), generator.work.rollouts

    def pass_seconds() -> float:
        embedded = (
            model.get_input_embeddings()(ids[:, :64].repeat(rows, 1)).detach().requires_grad_()
        )
        began = time.perf_counter()
        model.model(inputs_embeds=embedded).last_hidden_state.float().mean().backward()
        return time.perf_counter() - began

    def run() -> float:
        generator.rollouts(2, input_ids=ids)
        with torch.enable_grad():
            pass_seconds()
            trained = pass_seconds()
        return _decode_seconds(generator, ids) * work.tokens / PROBED + trained * work.tokens / min(
            64, ids.shape[1]
        )

    return Side(run)
