"""llama.cpp through llama-cpp-python's low-level interface: parallel sequences that share their
prompt, on the GGUF."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any

from ..workloads import PROBLEMS, PeerMissing, Side, Work
from . import package

TOP_K = 50


class Sequences:
    """A model with room for `rows` parallel sequences. `unified`: one cache for all, else one for
    each."""

    def __init__(
        self,
        api: Any,
        path: Path,
        rows: int,
        cells: int,
        *,
        unified: bool,
        temperature: float,
        seed: int,
    ) -> None:
        self.api, self.rows, self.temperature, self.seed = api, rows, temperature, seed
        params = api.llama_model_default_params()
        self.model = api.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise PeerMissing(f"llama.cpp cannot load {path}")
        self.vocab = api.llama_model_get_vocab(self.model)
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = cells, rows, unified
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = _cores()
        params.no_perf = True
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            raise PeerMissing(
                f"llama.cpp cannot make a context of {cells} cells for {rows} sequences"
            )
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(512, 0, 1)
        self.samplers = [self._sampler(seed + row) for row in range(rows)]

    def _sampler(self, seed: int) -> Any:
        api = self.api
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_top_k(TOP_K))
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_temp(self.temperature))
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_dist(seed % 2**32))
        return chain

    def tokens(self, text: str) -> list[int]:
        data = text.encode()
        room = (self.api.llama_token * (len(data) + 8))()
        count = self.api.llama_tokenize(self.vocab, data, len(data), room, len(room), False, True)
        return list(room[:count])

    def decode(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """One forward pass over (token, position, sequence, whether its logits are wanted)."""
        batch = self.batch
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = (
                token,
                position,
                1,
                wanted,
            )
            batch.seq_id[i][0] = sequence
        batch.n_tokens = len(entries)
        if code := self.api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def rollouts(self, prompts: list[list[int]], each: int, tokens: int) -> int:
        """`each` rollouts of every prompt [n], `tokens` long whatever they say; how many tokens
        were made."""
        api = self.api
        api.llama_memory_clear(self.memory, True)
        last: list[int] = []
        for p, prompt in enumerate(prompts):  # a prompt is read once and shared by its sequences
            first = p * each
            self.decode([(t, i, first, i == len(prompt) - 1) for i, t in enumerate(prompt)])
            for row in range(first, first + each):
                if row > first:
                    api.llama_memory_seq_cp(self.memory, first, row, -1, -1)
                last.append(api.llama_sampler_sample(self.samplers[row], self.context, -1))
        starts = [len(prompt) for prompt in prompts for _ in range(each)]
        for t in range(tokens - 1):
            self.decode([(token, starts[row] + t, row, True) for row, token in enumerate(last)])
            last = [
                api.llama_sampler_sample(self.samplers[row], self.context, row)
                for row in range(len(last))
            ]
        return len(last) * tokens

    def close(self) -> None:
        api = self.api
        for sampler in self.samplers:
            api.llama_sampler_free(sampler)
        api.llama_batch_free(self.batch)
        api.llama_free(self.context)
        api.llama_model_free(self.model)


def _cores() -> int:
    import psutil

    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


def one_problem(work: Work) -> Side:
    """Rollouts of one problem: tokens a second, prompt included."""
    return _side(work, 1)


def four_problems(work: Work) -> Side:
    """Rollouts of four problems at once, without soft prompts, which llama.cpp has not: tokens a
    second."""
    return _side(work, 4)


def gguf(work: Work) -> Path:
    """The GGUF that our weights were converted from. Raises PeerMissing if it is not in the cache."""
    from ...model.weights.cache import gguf_path
    from ...model.weights.catalog import MODELS

    spec = MODELS.get(work.model)
    if spec is None or spec.kind != "gguf":
        raise PeerMissing(
            f"llama.cpp was not measured: model {work.model} has no GGUF, choose one that "
            "`latentmem doctor` lists"
        )
    path = gguf_path(spec)
    if not path.is_file():
        raise PeerMissing(
            f"llama.cpp was not measured: {path} is not there, load the model without "
            "LATENTMEM_KEEP_GGUF=0"
        )
    return path


def _side(work: Work, problems: int) -> Side:
    api = package("llama_cpp", "llama-cpp-python")
    path, rows = gguf(work), problems * work.rollouts
    quiet = api.llama_log_callback(lambda *_: None)
    api.llama_log_set(quiet, ctypes.c_void_p(0))
    api.llama_backend_init()

    def made(unified: bool) -> tuple[Sequences, list[list[int]]]:
        longest = 256 + work.tokens  # of a sequence: its prompt and its rollout
        one = Sequences(
            api,
            path,
            rows,
            rows * longest,
            unified=unified,
            temperature=work.temperature,
            seed=work.seed,
        )
        return one, [one.tokens(_chat(p.text, work)) for p in PROBLEMS[:problems]]

    best: tuple[float, bool] = (0.0, True)
    for unified in (
        True,
        False,
    ):  # which is faster depends on the machine: the peer gets the better one
        one, prompts = made(unified)
        one.rollouts(prompts, work.rollouts, 2)  # warms up
        best = max(best, (_speed(one, prompts, work.rollouts, max(2, work.tokens // 2)), unified))
        one.close()
    chosen, prompts = made(best[1])
    chosen.rollouts(prompts, work.rollouts, 2)

    def run() -> float:
        assert quiet, "the callback lives as long as the model"
        return _speed(chosen, prompts, work.rollouts, work.tokens)

    how = "one cache for all sequences" if best[1] else "a cache for each sequence"
    return Side(
        run,
        f"llama.cpp on {path.name}, top-k {TOP_K}, {_cores()} threads, {how} (the faster), "
        "without soft prompts",
    )


def _chat(text: str, work: Work) -> str:
    """The problem in its chat, by the same template as ours."""
    from transformers import AutoTokenizer

    from ...method.prompts import solve_messages
    from ...model.weights import ensure

    tokenizer = AutoTokenizer.from_pretrained(ensure(work.model).path, trust_remote_code=False)
    return tokenizer.apply_chat_template(
        solve_messages(text), tokenize=False, add_generation_prompt=True
    )


def _speed(one: Sequences, prompts: list[list[int]], each: int, tokens: int) -> float:
    began = time.perf_counter()
    made = one.rollouts(prompts, each, tokens)
    return made / (time.perf_counter() - began)
