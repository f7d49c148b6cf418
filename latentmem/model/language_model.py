"""The frozen language model: it embeds, samples and scores, and its weights never change."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from os.path import commonprefix
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..records import LatentmemError
from .kv_cache import Collected, KVCache
from .linear import Linear, has_int8
from .sampler import draw
from .transformer import Transformer, causal_mask, decoding_mask, forward, take_apart
from .weights.cache import Weights


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a rollout continues: token ids, perhaps with a memory. That is a soft prompt [virtual
    tokens, hidden] in front of them, or layer vectors [layers, 1, hidden], which each layer adds
    to every position."""

    ids: tuple[int, ...]
    soft: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids) + (0 if self.front is None else len(self.front))

    @property
    def front(self) -> Tensor | None:
        """The soft prompt, if that is what the memory is."""
        return None if self.soft is None or self.soft.ndim == 3 else self.soft


@dataclass(frozen=True, slots=True)
class SampledToken:
    """One token of one row. `ended`: this token is the end of the sequence, and no text."""

    row: int
    token: int
    ended: bool
    entropy: float
    certainty: float


@dataclass(frozen=True, eq=False)
class Prefilled:
    """G prompts after one forward pass, padded on the left to a common length P."""

    layers: list[tuple[Tensor, Tensor]]  # per layer: keys, values [G, kv_heads, P, D]
    hidden: Tensor  # [G, P, hidden]
    visible: Tensor  # [G, P], False at padding
    lengths: Tensor  # [G], true lengths
    vectors: Tensor | None = None  # [G, layers, hidden], where a prompt has them


def native_arithmetic(device: torch.device) -> str:
    """The fastest arithmetic for sampling that costs no accuracy: int8, bfloat16 or float32.

    With VNNI a CPU multiplies 8-bit integers three times as fast as float32. Where it has bfloat16,
    too, integers still sample 8 rows 1.6 times as fast: a decode step spends half its time on
    reading the weights, and these are half as large.
    """
    if device.type == "cpu" and has_int8():
        return "int8"
    return str(native_number(device)).removeprefix("torch.")


def native_number(device: torch.device) -> torch.dtype:
    """The floating-point type that the device multiplies fastest.

    A CPU without AVX512-BF16 or AMX is several times slower with bfloat16 than with float32.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return torch.bfloat16 if native else torch.float32


def arithmetic_named(name: str, device: torch.device) -> str:
    """bfloat16, int8 or float32 for a setting. Raises LatentmemError if the device lacks it."""
    if name == "int8" and (device.type != "cpu" or not has_int8()):
        raise LatentmemError(
            f"This {device.type} device cannot multiply 8-bit integers (a CPU with AVX512-VNNI "
            "can): use --set dtype=auto or float32."
        )
    return native_arithmetic(device) if name == "auto" else name


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name. Raises LatentmemError if the machine has none."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    there = [d for d, found in (("cuda", cuda), ("mps", mps), ("cpu", True)) if found]
    if name == "auto":
        name = there[0]
    if name not in there:
        raise LatentmemError(f"Device {name!r} is not available here: use --device auto or cpu.")
    return torch.device(name)


def first_line(error: Exception) -> str:
    """The first line of an error; a line that ends with a colon includes the next."""
    if "ignore_mismatched_sizes" in str(error):  # transformers logs the details, and only there
        return "its weights have other shapes than its config says"
    if isinstance(error, KeyError):
        return f"there is no {error}"[:200]
    text = re.sub(r":\s*\n\s*", ": ", str(error).strip())
    return (text.splitlines() or [type(error).__name__])[0][:200]


def check_template(tokenizer: Any) -> None:
    """Raise ValueError if the tokenizer's chat template cannot put a question to the model."""
    if not tokenizer.chat_template:
        raise ValueError("it has no chat template")
    question = {"role": "user", "content": "What is 1 + 1?"}
    try:
        text = chat_text(tokenizer, [question])
    except Exception as e:  # the template's own words, or jinja's
        why = f"its chat template fails: {first_line(e)}"
        with suppress(Exception):
            chat_text(tokenizer, [{"role": "system", "content": "Think."}, question])
            why = "its chat template demands a system message"
        raise ValueError(why) from None
    if question["content"] not in text:
        raise ValueError("its chat template leaves the question out")


def chat_text(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """A chat up to the assistant's turn, without a thinking block."""
    how = {"date_string": DATE, "enable_thinking": False}
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **how
    )


class LanguageModel:
    """A frozen causal language model of the Llama, Qwen2 or Qwen3 family."""

    def __init__(
        self,
        body: Transformer,
        tokenizer: Any,
        *,
        name: str,
        fingerprint: str,
        ends: frozenset[int],
        context: int,
    ) -> None:
        self.body, self.tokenizer = body, tokenizer
        self.name, self.fingerprint, self.ends, self.context = name, fingerprint, ends, context

    @classmethod
    def load(cls, weights: Weights, *, device: str = "auto", dtype: str = "auto") -> LanguageModel:
        """Load verified weights. Raises LatentmemError for a missing device or an unsupported
        model."""
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()  # Status records show the progress
        where = pick_device(device)
        kind = arithmetic_named(dtype, where)
        try:
            tokenizer = AutoTokenizer.from_pretrained(weights.path, trust_remote_code=False)
            check_template(tokenizer)
            # mapped in the file's own dtype; `take_apart` converts it
            model, found = AutoModelForCausalLM.from_pretrained(
                weights.path,
                dtype="auto",
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
            if found["missing_keys"]:  # transformers would put random numbers in their place
                raise ValueError(f"it lacks {min(found['missing_keys'])}")
            if extra := [k for k in found["unexpected_keys"] if not k.endswith("inv_freq")]:
                raise ValueError(f"its config does not mention {min(extra)}")
        except Exception as e:  # whatever transformers and its parts raise about such a folder
            raise LatentmemError(
                f"{weights.name} cannot be used ({first_line(e)}): choose an instruct model of "
                "the Llama, Qwen2 or Qwen3 family in safetensors, not quantised."
            ) from None
        return cls.of(
            model,
            tokenizer,
            name=weights.name,
            fingerprint=weights.fingerprint,
            device=where,
            dtype=native_number(where) if kind == "int8" else getattr(torch, kind),
            use_int8=kind == "int8",
        )

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        fingerprint: str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        use_int8: bool = False,
    ) -> LanguageModel:
        """From a loaded transformers model, which must not be used afterwards."""
        listed = model.generation_config.eos_token_id
        ends = set(listed if isinstance(listed, list) else [listed]) | {tokenizer.eos_token_id}
        context = model.config.max_position_embeddings
        return cls(
            take_apart(model, torch.device(device), dtype, use_int8=use_int8),
            tokenizer,
            name=name,
            fingerprint=fingerprint,
            ends=frozenset(e for e in ends if e is not None),
            context=context,
        )

    def of_body(self, body: Transformer) -> LanguageModel:
        """The same model with other weights, which its fingerprint does not tell apart."""
        made = LanguageModel.__new__(LanguageModel)
        made.__dict__ |= self.__dict__ | {"body": body}
        return made

    @property
    def hidden(self) -> int:
        return self.body.hidden

    def render(self, messages: list[dict[str, str]]) -> tuple[int, ...]:
        """Token ids of a chat, up to the assistant's turn."""
        text = chat_text(self.tokenizer, messages)
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Input embeddings [n, hidden] of token ids [n]."""
        return self.body.embedding[torch.as_tensor(ids, device=self.body.device)]

    def prefill(self, prompts: Sequence[Prompt]) -> Prefilled:
        """One forward pass over G prompts, padded on the left, before the soft prompts.
        Differentiable.

        Raises LatentmemError if a soft prompt has another width than the model, or if a prompt
        exceeds the context.
        """
        body, flow, size = self.body, self.body.flow, max(map(len, prompts))
        if size > self.context:
            raise LatentmemError(
                f"The prompt has {size} tokens and the model reads {self.context}: shorten the "
                "problem."
            )
        rows = []
        for p in prompts:
            words = self.embed(p.ids).to(flow)
            parts = [torch.zeros(size - len(p), body.hidden, dtype=flow, device=body.device)]
            if p.soft is not None:
                self._check(p.soft)
            if p.front is not None:
                parts.append(p.front.to(body.device, flow))
            rows.append(torch.cat([*parts, words]))
        lengths = torch.tensor([len(p) for p in prompts], device=body.device)
        # [G, P], < 0 at padding
        offsets = torch.arange(size, device=body.device)[None] - (size - lengths)[:, None]
        visible, kept = offsets >= 0, Collected()
        mask = causal_mask(visible, size, flow)
        vectors = self._vectors([p.soft for p in prompts], flow)
        hidden = forward(body, torch.stack(rows), offsets.clamp(min=0), mask, kept, vectors)
        return Prefilled(kept.layers, hidden, visible, lengths, vectors)

    def _check(self, soft: Tensor) -> None:
        """Raises LatentmemError for a memory that does not fit the model."""
        if soft.shape[-1] != self.hidden:
            raise LatentmemError(
                f"The memory has width {soft.shape[-1]} and the model {self.hidden}: use the model "
                "that made this memory."
            )
        if soft.ndim == 3 and soft.shape[:2] != (len(self.body.layers), 1):
            raise LatentmemError(
                f"The memory has vectors for {len(soft)} layers and the model has "
                f"{len(self.body.layers)}: use the model that made this memory."
            )

    def _vectors(self, softs: Sequence[Tensor | None], flow: torch.dtype) -> Tensor | None:
        """The layer vectors [G, layers, hidden] of G prompts, zeros where one has none; None if
        none has."""
        if all(soft is None or soft.ndim == 2 for soft in softs):
            return None
        body = self.body
        none = torch.zeros(len(body.layers), body.hidden, dtype=flow, device=body.device)
        return torch.stack(
            [
                none if soft is None or soft.ndim == 2 else soft[:, 0].to(body.device, flow)
                for soft in softs
            ]
        )

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[Sequence[int]],
        *,
        temperature: float,
        max_new_tokens: int,
        top_p: float = 1.0,
        stopped: Callable[[int], bool] = lambda _: False,
        watch: Callable[[Sequence[int], Tensor], None] | None = None,
    ) -> Iterator[list[SampledToken]]:
        """Sample rollouts: seeds[g] holds one seed for each rollout of prompts[g]; rows count
        through all of them.

        Each prompt is read once and its cache expanded to its rollouts. Yields the tokens of all
        live rows after every decode step; closing the generator cancels. Rows that have ended, or
        have no room left, leave the batch. A row's draws depend on its seed alone, whatever else is
        in the batch. Raises LatentmemError if a prompt leaves no room, or for NaN.

        `stopped`: asked after each token whether a row ends there, as the consumer may decide.
        `watch`: called before each token with the live rows and the final hidden states [live rows,
        hidden] that predict it.
        """
        assert len(prompts) == len(seeds) and all(seeds), "one seed for each rollout"
        body, device = self.body, self.body.device
        filled = self.prefill(prompts)
        of = torch.tensor([g for g, s in enumerate(seeds) for _ in s], device=device)  # [B]
        # A row ends with its own room, not with that of the longest prompt beside it.
        rooms = filled.lengths[of].neg().add(self.context).clamp(max=max_new_tokens).tolist()
        if min(rooms) < 1:
            raise LatentmemError(
                f"The prompt fills all {self.context} tokens that the model reads: shorten the "
                "problem."
            )
        room = max(rooms)
        uniform = self._uniform([seed for s in seeds for seed in s], max_new_tokens)
        cache = KVCache(filled.layers, of, room)
        mask = decoding_mask(filled.visible[of], room, body.flow)
        live, lengths, hidden = list(range(len(of))), filled.lengths[of], filled.hidden[:, -1][of]
        vectors = None if filled.vectors is None else filled.vectors[of]
        del filled
        for t in range(room):
            if watch is not None:
                watch(live, hidden)
            ids, drawn = self._drawn(hidden, uniform[:, t], live, temperature, top_p)
            yield drawn
            going = [not d.ended and t + 1 < rooms[i] for i, d in enumerate(drawn)]
            left = [i for i, d in enumerate(drawn) if going[i] and not stopped(d.row)]
            if not left:
                return
            if len(left) < len(live):
                keep = torch.tensor(left, device=device)
                cache.keep(keep)
                ids, mask, lengths = ids[keep], mask[keep], lengths[keep]
                uniform = uniform[keep.to(uniform.device)]
                live, rooms = [live[i] for i in left], [rooms[i] for i in left]
                vectors = None if vectors is None else vectors[keep]
            x = body.embedding[ids][:, None].to(body.flow)
            seen = mask[..., : cache.length + 1]
            hidden = forward(body, x, (lengths + t)[:, None], seen, cache, vectors)[:, 0]

    def _uniform(self, seeds: Sequence[int], n: int) -> Tensor:
        """n uniform numbers for each seed [B, n], float64, on the model's device if it has such."""
        draws = [np.random.Generator(np.random.Philox(seed)).random(n) for seed in seeds]
        uniform = torch.from_numpy(np.stack(draws))
        return uniform if self.body.device.type == "mps" else uniform.to(self.body.device)

    def _drawn(
        self, hidden: Tensor, u: Tensor, live: Sequence[int], temperature: float, top_p: float
    ) -> tuple[Tensor, list[SampledToken]]:
        """The next token of each live row, from its last hidden state: ids [B], and records."""
        ids, *doubts = draw(self.body.head(hidden), u, temperature, top_p)
        entropy, certainty = (d.tolist() for d in doubts)
        if not all(map(math.isfinite, certainty)):
            raise LatentmemError(
                "The model computed NaN or infinity: use dtype float32, or delete the memory."
            )
        return ids, [
            SampledToken(row, token, token in self.ends, e, c)
            for row, token, e, c in zip(live, ids.tolist(), entropy, certainty, strict=True)
        ]

    @torch.no_grad()
    def next_token_probs(self, prompts: Sequence[Prompt], ids: Sequence[int]) -> np.ndarray:
        """Probability of each of `ids` [n] as the next token of each prompt -> [G, n], float32."""
        out = []
        for p in prompts:  # one by one: they are few and their lengths differ widely
            logits = self.body.head(self.prefill([p]).hidden[:, -1])
            out.append(logits.float().softmax(-1)[0, list(ids)].cpu().numpy())
        return np.stack(out)

    def text_prompt(self, text: str, tokens: int) -> Tensor:
        """An untrained soft prompt [tokens, hidden], float32: the embeddings of `text`, repeated or
        cut to length.

        PEFT's TEXT initialisation; its RANDOM one, N(0, 1), is about 60 times the scale of real
        embeddings.
        """
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise LatentmemError(f"The init text {text!r} has no tokens: give at least one word.")
        return self.embed([ids[i % len(ids)] for i in range(tokens)]).float().clone()

    def layer_scale(self) -> Tensor:
        """What a number of layer vectors is measured in, [layers, 1, 1]: the rms of what a layer's
        second half adds over the opening of a chat without its first token, at most the median over
        the layers. A few large numbers decide the rms of some layers; they would move too far.
        """
        sizes: list[Tensor] = []

        def watched(down: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
            out = down(x)
            sizes.append(out[0, 1:].float().square().mean().sqrt())
            return out

        chats = [self.render([{"role": "user", "content": text}]) for text in ("1", "?")]
        layers = tuple(
            replace(w, down=cast(Linear, partial(watched, w.down))) for w in self.body.layers
        )
        opening = tuple(commonprefix(chats))
        with torch.no_grad():
            self.of_body(replace(self.body, layers=layers)).prefill([Prompt(opening)])
        scale = torch.stack(sizes)
        return scale.clamp(max=scale.median())[:, None, None]

    def problem_kv(
        self, problem: str, messages: list[dict[str, str]]
    ) -> list[tuple[Tensor, Tensor]]:
        """Per layer, the keys and values [kv_heads, n, head_dim] of the problem's own n tokens."""
        text = chat_text(self.tokenizer, messages)
        start = text.index(problem.strip())
        end = start + len(problem.strip())
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        inside = [i for i, (a, b) in enumerate(coded["offset_mapping"]) if a < end and b > start]
        with torch.no_grad():
            filled = self.prefill([Prompt(tuple(coded["input_ids"]))])
        return [(k[0][:, inside], v[0][:, inside]) for k, v in filled.layers]


# For chat templates that write a date, as Llama's do: today's would change every prompt overnight.
DATE = "26 Jul 2024"
