"""The programs that we are compared with: transformers, TRL, llama.cpp, qdrant. Their packages are
the extra `bench` (pip install -e ".[bench]") and are imported when they are measured."""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
import warnings
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from .workloads import (
    EMBEDDING,
    HITS,
    PROBLEMS,
    SHARE,
    PeerMissing,
    Side,
    Workload,
    p95,
    peak_bytes,
    unit_keys,
)


def package(module: str, name: str) -> Any:
    """A peer's package. Raises PeerMissing, one sentence, if it is not installed."""
    try:
        return import_module(module)
    except ImportError as e:
        raise PeerMissing(
            f'{name} is not installed ({e}): pip install {name}, or pip install -e ".[bench]".'
        ) from None


# ---------- transformers' own `generate`.

WARM = 8  # tokens of the rollouts before the first that is timed


class Generator:
    """A transformers model and tokenizer, which makes rollouts of exactly the length of ours."""

    def __init__(self, work: Workload) -> None:
        from ..model.language_model import pick_device

        self.work, self.device = work, pick_device(work.device)
        self.model, self.tokenizer = load(work)
        self.model.to(self.device)
        self.dtype = dtype_note(self.model)
        # No row may end early: ours do not either.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = self.tokenizer.pad_token_id or 0

    def ids(self, text: str) -> Any:
        """Token ids [1, n] of a problem in its chat."""
        coded = self.tokenizer(
            chat(self.tokenizer, text), add_special_tokens=False, return_tensors="pt"
        )
        return coded.input_ids.to(self.device)

    def rollouts(self, tokens: int, **inputs: Any) -> int:
        """One call of `generate`; returns how many tokens it made. top_k is off: its default of 50
        costs more and is not exact."""
        import torch

        shape = next(iter(inputs.values())).shape[:2]
        mask = torch.ones(shape, dtype=torch.long, device=self.device)
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


def load(work: Workload) -> tuple[Any, Any]:
    """Model, in the peer's dtype, and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from ..model.language_model import native_number, pick_device
    from ..model.weights import ensure

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    path, named = ensure(work.model).path, work.peer_dtype
    native = native_number(pick_device(work.device))
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=native if named == "auto" else getattr(torch, named),
        use_safetensors=True,
        trust_remote_code=False,
    )
    return model.eval(), AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def chat(tokenizer: Any, text: str) -> str:
    """The problem in its chat, by the same template as ours."""
    from ..method.prompts import solve_messages

    return tokenizer.apply_chat_template(
        solve_messages(text), tokenize=False, add_generation_prompt=True
    )


def dtype_note(model: Any) -> str:
    return f"peer in {str(model.dtype).removeprefix('torch.')}"


def transformers_one(work: Workload) -> Side:
    """`generate(do_sample=True, num_return_sequences=rollouts)`: tokens a second."""
    generator = Generator(work)
    return _generated(generator, [{"input_ids": generator.ids(PROBLEMS[0].text)}])


def transformers_four(work: Workload) -> Side:
    """Four such calls in turn, each with its own soft prompt in front: tokens a second."""
    generator = Generator(work)
    softs = [generator.soft_inputs(p.text, 1 + i / 10) for i, p in enumerate(PROBLEMS[:4])]
    return _generated(generator, [{"inputs_embeds": soft} for soft in softs])


def _generated(generator: Generator, calls: list[dict[str, Any]]) -> Side:
    generator.rollouts(WARM, **calls[0])  # warms up

    def run() -> float:
        began = time.perf_counter()
        made = sum(generator.rollouts(generator.work.tokens, **call) for call in calls)
        return made / (time.perf_counter() - began)

    return Side(run, generator.dtype)


# ---------- TRL's GRPOTrainer with PEFT's prompt tuning: the same rollouts, rewards and steps.


def trl_memory(work: Workload) -> Side:
    """Seconds for one memory, extrapolated from `peer_steps` steps. Without gradient checkpointing,
    which is slower."""
    model, tokenizer = _parts(work)
    train(model, tokenizer, work, tokens=16, steps=1)  # warms up
    return Side(
        lambda: work.steps * median(train(model, tokenizer, work, work.tokens, work.peer_steps)),
        f"TRL measured for {work.peer_steps} of {work.steps} steps and extrapolated, loading not "
        f"counted; {dtype_note(model)}",
    )


def trl_peak(work: Workload) -> Side:
    """GB of this process's peak, with loading. With gradient checkpointing, TRL's default, which
    needs less."""
    model, tokenizer = _parts(work)

    def run() -> float:
        train(model, tokenizer, work, work.tokens, work.memory_steps, checkpointing=True)
        return peak_bytes()

    return Side(run, "TRL with gradient checkpointing")


def _parts(work: Workload) -> tuple[Any, Any]:
    package("trl", "trl")
    package("datasets", "datasets")
    return load(work)


def mend(model: Any) -> None:
    """Let a PEFT model with a soft prompt decode one token a step, with any PEFT.

    PEFT 0.21 looks for the cache as `past_key_values`, where transformers 5.24 says `cache`. When
    it does not find it, it inserts the whole soft prompt again at every token, which gives other
    text for many times the work and no fair comparison.
    """
    prepare = model.base_model_prepare_inputs_for_generation
    outer = model.prepare_inputs_for_generation

    def with_cache(*args: Any, **kwargs: Any) -> dict[str, Any]:
        made = prepare(*args, **kwargs)
        cache = made.get("past_key_values")
        return {**made, "past_key_values": made.get("cache") if cache is None else cache}

    # these names of the arguments: transformers looks for them
    def without(*args: Any, **kwargs: Any) -> dict[str, Any]:
        made = outer(*args, **kwargs)
        if made.get("cache") is not None:
            made.pop("past_key_values", None)
        return made

    model.base_model_prepare_inputs_for_generation = with_cache
    model.prepare_inputs_for_generation = without


def rewards(completions: list[Any], **_: Any) -> list[float]:
    """What our scripted rollouts earn, too: a majority, so that every row has a gradient."""
    return [float(i < len(completions) * SHARE) for i in range(len(completions))]


def train(
    model: Any,
    tokenizer: Any,
    work: Workload,
    tokens: int,
    steps: int,
    *,
    checkpointing: bool = False,
) -> list[float]:
    """Seconds of each of `steps` GRPO steps on one problem, with the bench's own recipe."""
    import torch
    from datasets import Dataset
    from peft import PromptTuningConfig
    from trl import GRPOConfig, GRPOTrainer

    from ..method.prompts import solve_messages

    clock = _clock()
    soft = PromptTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=work.virtual_tokens,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=work.init_text,
        tokenizer_name_or_path=tokenizer.name_or_path,
    )
    asked = [{"prompt": solve_messages(PROBLEMS[0].text)}] * work.rollouts
    with tempfile.TemporaryDirectory(prefix="latentmem-bench-") as folder:
        config = GRPOConfig(
            output_dir=folder,
            max_steps=steps,
            max_completion_length=tokens,
            gradient_checkpointing=checkpointing,
            generation_kwargs={"min_new_tokens": tokens},  # no row ends early: ours do not either
            per_device_train_batch_size=work.rollouts,
            num_generations=work.rollouts,
            gradient_accumulation_steps=1,
            temperature=work.temperature,
            top_k=0,
            top_p=1.0,
            learning_rate=work.learning_rate,
            lr_scheduler_type="constant",
            beta=0.0,
            max_grad_norm=1.0,
            bf16=False,
            use_cpu=work.device == "cpu" or not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=work.seed % 2**32,
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_list(asked),
            processing_class=tokenizer,
            peft_config=soft,
            callbacks=[clock],
        )
        mend(trainer.model)
        trainer.train()
    assert len(clock.took) == steps, "every step was seen"
    return clock.took


def _clock() -> Any:
    """A callback that notes the seconds of each step in `took`: rollouts, forward, backward and
    update all lie between its two calls."""
    import torch
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.began, self.took = 0.0, []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.took.append(time.perf_counter() - self.began)

    return Clock()


# ---------- llama.cpp through llama-cpp-python's low-level interface, on the GGUF.

TOP_K = 50


class Sequences:
    """A model with room for `rows` sequences. `unified`: one cache for all, else one for each."""

    def __init__(self, api: Any, path: Path, rows: int, work: Workload, unified: bool) -> None:
        self.api = api
        params = api.llama_model_default_params()
        self.model = api.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise PeerMissing(f"llama.cpp cannot load {path}")
        self.vocab = api.llama_model_get_vocab(self.model)
        params = api.llama_context_default_params()
        params.n_ctx = rows * (256 + work.tokens)  # of a sequence: its prompt, and its rollout
        params.n_seq_max, params.kv_unified = rows, unified
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = _cores()
        params.no_perf = True
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            raise PeerMissing(f"llama.cpp cannot make a context for {rows} sequences")
        self.memory = api.llama_get_memory(self.context)
        self.batch = api.llama_batch_init(512, 0, 1)
        self.samplers = [self._sampler(work.seed + row, work.temperature) for row in range(rows)]

    def _sampler(self, seed: int, temperature: float) -> Any:
        api = self.api
        chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_top_k(TOP_K))
        api.llama_sampler_chain_add(chain, api.llama_sampler_init_temp(temperature))
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
        for i, entry in enumerate(entries):
            batch.token[i], batch.pos[i], batch.seq_id[i][0], batch.logits[i] = entry
            batch.n_seq_id[i] = 1
        batch.n_tokens = len(entries)
        if code := self.api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def rollouts(self, prompts: list[list[int]], each: int, tokens: int) -> int:
        """`each` rollouts of every prompt [n], exactly `tokens` long; returns their tokens."""
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
            rows = range(len(last))
            last = [api.llama_sampler_sample(self.samplers[r], self.context, r) for r in rows]
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


def llama_one(work: Workload) -> Side:
    """Rollouts of one problem: tokens a second, prompt included."""
    return _llama(work, 1)


def llama_four(work: Workload) -> Side:
    """Rollouts of four problems at once, without soft prompts: tokens a second."""
    return _llama(work, 4)


def gguf(work: Workload) -> Path:
    """The GGUF of our weights. Raises PeerMissing if it is not in the cache."""
    from ..model.weights.cache import gguf_path
    from ..model.weights.catalog import MODELS

    spec = MODELS.get(work.model)
    if spec is None or spec.kind != "gguf":
        why = f"model {work.model} has no GGUF, choose one that `latentmem doctor` lists"
        raise PeerMissing(f"llama.cpp was not measured: {why}")
    if not (path := gguf_path(spec)).is_file():
        why = f"{path} is not there, load the model without LATENTMEM_KEEP_GGUF=0"
        raise PeerMissing(f"llama.cpp was not measured: {why}")
    return path


def _llama(work: Workload, problems: int) -> Side:
    from transformers import AutoTokenizer

    from ..model.weights import ensure

    api, path = package("llama_cpp", "llama-cpp-python"), gguf(work)
    quiet = api.llama_log_callback(lambda *_: None)
    api.llama_log_set(quiet, ctypes.c_void_p(0))
    api.llama_backend_init()
    tokenizer = AutoTokenizer.from_pretrained(ensure(work.model).path, trust_remote_code=False)
    chats = [chat(tokenizer, p.text) for p in PROBLEMS[:problems]]

    def made(unified: bool) -> tuple[Sequences, list[list[int]]]:
        one = Sequences(api, path, problems * work.rollouts, work, unified)
        prompts = [one.tokens(text) for text in chats]
        one.rollouts(prompts, work.rollouts, 2)  # warms up
        return one, prompts

    def speed(one: Sequences, prompts: list[list[int]], tokens: int) -> float:
        assert quiet, "the callback lives as long as the model"
        began = time.perf_counter()
        count = one.rollouts(prompts, work.rollouts, tokens)
        return count / (time.perf_counter() - began)

    best: tuple[float, bool] = (0.0, True)
    # which is faster depends on the machine: the peer gets the better one
    for unified in (True, False):
        one, prompts = made(unified)
        best = max(best, (speed(one, prompts, max(2, work.tokens // 2)), unified))
        one.close()
    chosen, prompts = made(best[1])
    how = "one cache for all sequences" if best[1] else "a cache for each sequence"
    return Side(
        lambda: speed(chosen, prompts, work.tokens),
        f"llama.cpp on {path.name}, top-k {TOP_K}, {_cores()} threads, {how} (the faster), "
        "without soft prompts",
    )


# ---------- qdrant-client in local mode: exact search over numpy arrays in this process, as ours.


def qdrant_search(work: Workload) -> Side:
    """The same keys and searches as ours, with the memory's name as payload."""
    client = package("qdrant_client", "qdrant-client")
    models = client.models
    warnings.simplefilter("ignore")  # that local mode is meant for small collections
    bank = client.QdrantClient(":memory:")
    bank.create_collection(
        "bank", vectors_config=models.VectorParams(size=EMBEDDING, distance=models.Distance.COSINE)
    )
    bank.upload_collection(
        "bank",
        vectors=unit_keys(work.memories, work.seed),
        ids=range(work.memories),
        payload=({"name": f"What is {i} plus {i % 97}?"} for i in range(work.memories)),
        batch_size=1000,
    )
    asked = unit_keys(work.queries, work.seed + 1)
    bank.query_points("bank", query=asked[0], limit=HITS)
    return Side(
        lambda: p95([lambda q=q: bank.query_points("bank", query=q, limit=HITS) for q in asked])
    )
