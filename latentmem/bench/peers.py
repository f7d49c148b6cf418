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


# ---------- transformers' own `generate`, and the probe for the dtype that suits it here.

PROBED = 8  # tokens of the probe's rollouts


class Generator:
    """A transformers model and its tokenizer, which makes rollouts of exactly the length of
    ours."""

    def __init__(self, work: Workload) -> None:
        import torch

        from ..model.language_model import pick_device
        from ..model.weights import ensure

        self.work, path = work, ensure(work.model).path
        self.device = pick_device(work.device)
        self.model, self.tokenizer = load(str(path), getattr(torch, work.peer_dtype))
        self.model.to(self.device)
        # No row may end early: ours do not either.
        self.model.generation_config.eos_token_id = None
        self.model.generation_config.pad_token_id = self.tokenizer.pad_token_id or 0

    def ids(self, text: str) -> Any:
        """Token ids [1, n] of a problem in its chat."""
        from ..method.prompts import solve_messages

        chat = self.tokenizer.apply_chat_template(
            solve_messages(text), tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(chat, add_special_tokens=False, return_tensors="pt").input_ids.to(
            self.device
        )

    def rollouts(self, tokens: int, **inputs: Any) -> int:
        """One call of `generate`; returns how many tokens it made. top_k is off: its default of 50
        costs more and is not exact."""
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


def transformers_one(work: Workload) -> Side:
    """`generate(do_sample=True, num_return_sequences=rollouts)`: tokens a second."""
    generator = Generator(work)
    ids = generator.ids(PROBLEMS[0].text)
    generator.rollouts(PROBED, input_ids=ids)  # warms up
    return Side(lambda: _generated_a_second(generator, [{"input_ids": ids}]))


def transformers_four(work: Workload) -> Side:
    """Four such calls in turn, each with its own soft prompt in front: tokens a second."""
    generator = Generator(work)
    calls = [
        {"inputs_embeds": generator.soft_inputs(p.text, 1 + i / 10)}
        for i, p in enumerate(PROBLEMS[:4])
    ]
    generator.rollouts(PROBED, **calls[0])  # warms up
    return Side(lambda: _generated_a_second(generator, calls))


def _generated_a_second(generator: Generator, calls: list[dict[str, Any]]) -> float:
    began = time.perf_counter()
    made = sum(generator.rollouts(generator.work.tokens, **call) for call in calls)
    return made / (time.perf_counter() - began)


def probe_decode(work: Workload) -> Side:
    """Seconds of a few tokens of rollouts."""
    generator = Generator(work)
    ids = generator.ids(PROBLEMS[0].text)
    generator.rollouts(2, input_ids=ids)  # warms up
    return Side(lambda: _decode_seconds(generator, ids))


def _decode_seconds(generator: Generator, ids: Any) -> float:
    began = time.perf_counter()
    generator.rollouts(PROBED, input_ids=ids)
    return time.perf_counter() - began


def probe_train(work: Workload) -> Side:
    """Seconds of one training step, estimated from its two parts: rollouts, and forward and
    backward of their tokens."""
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


# ---------- TRL's GRPOTrainer with PEFT's prompt tuning: the same rollouts, rewards and steps.


def trl_memory(work: Workload) -> Side:
    """Seconds for one memory, extrapolated from `peer_steps` steps. Without gradient checkpointing,
    which is slower."""
    model, tokenizer = _parts(work)
    train(model, tokenizer, work, tokens=16, steps=1)  # warms up
    return Side(
        lambda: work.steps * median(train(model, tokenizer, work, work.tokens, work.peer_steps)),
        f"TRL measured for {work.peer_steps} of {work.steps} steps and extrapolated, loading not "
        "counted",
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
    import torch

    from ..model.weights import ensure

    return load(str(ensure(work.model).path), getattr(torch, work.peer_dtype))


def mend(model: Any) -> None:
    """Let a PEFT model with a soft prompt decode one token a step, with any PEFT.

    PEFT 0.21 looks for the cache as `past_key_values`, where transformers 5.24 says `cache`. When
    it does not find it, it inserts the whole soft prompt again at every token, which gives other
    text for many times the work and no fair comparison.
    """
    prepare, outer = (
        model.base_model_prepare_inputs_for_generation,
        model.prepare_inputs_for_generation,
    )

    def with_cache(*args: Any, **kwargs: Any) -> dict[str, Any]:
        made = prepare(*args, **kwargs)
        return (
            made
            if made.get("past_key_values") is not None or made.get("cache") is None
            else {**made, "past_key_values": made["cache"]}
        )

    def without(
        *args: Any, **kwargs: Any
    ) -> dict[str, Any]:  # these names: transformers looks for them
        made = outer(*args, **kwargs)
        if made.get("cache") is not None:
            made.pop("past_key_values", None)
        return made

    model.base_model_prepare_inputs_for_generation, model.prepare_inputs_for_generation = (
        with_cache,
        without,
    )


def rewards(completions: list[Any], **_: Any) -> list[float]:
    """What the scripted rollouts of our side earn: a majority of each group, so that every row has
    a gradient."""
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
    """Seconds of each of `steps` GRPO steps on one problem."""
    from datasets import Dataset
    from peft import PromptTuningConfig, PromptTuningInit, TaskType
    from trl import GRPOConfig, GRPOTrainer

    from ..method.prompts import solve_messages

    clock = _clock()
    soft = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=work.virtual_tokens,
        prompt_tuning_init=PromptTuningInit.TEXT,
        prompt_tuning_init_text=work.init_text,
        tokenizer_name_or_path=tokenizer.name_or_path,
    )
    with tempfile.TemporaryDirectory(prefix="latentmem-bench-") as folder:
        config = GRPOConfig(
            output_dir=folder,
            max_steps=steps,
            max_completion_length=tokens,
            gradient_checkpointing=checkpointing,
            generation_kwargs={"min_new_tokens": tokens},  # no row ends early: ours do not either
            **_trl_settings(work),
        )
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=config,
            train_dataset=Dataset.from_list(
                [{"prompt": solve_messages(PROBLEMS[0].text)}] * work.rollouts
            ),
            processing_class=tokenizer,
            peft_config=soft,
            callbacks=[clock],
        )
        mend(trainer.model)
        trainer.train()
    assert len(clock.took) == steps, "every step was seen"
    return clock.took


def _trl_settings(work: Workload) -> dict[str, Any]:
    """The settings of every run of the trainer: the bench's own recipe, and no reports."""
    import torch

    return {
        "per_device_train_batch_size": work.rollouts,
        "num_generations": work.rollouts,
        "gradient_accumulation_steps": 1,
        "temperature": work.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "beta": 0.0,
        "max_grad_norm": 1.0,
        "bf16": False,
        "use_cpu": work.device == "cpu" or not torch.cuda.is_available(),
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": work.seed % 2**32,
    }


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
        """`each` rollouts of every prompt [n], exactly `tokens` long; returns how many tokens were
        made."""
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


def llama_one(work: Workload) -> Side:
    """Rollouts of one problem: tokens a second, prompt included."""
    return _llama(work, 1)


def llama_four(work: Workload) -> Side:
    """Rollouts of four problems at once, without soft prompts, which llama.cpp does not have:
    tokens a second."""
    return _llama(work, 4)


def gguf(work: Workload) -> Path:
    """The GGUF of our weights. Raises PeerMissing if it is not in the cache."""
    from ..model.weights.cache import gguf_path
    from ..model.weights.catalog import MODELS

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


def _llama(work: Workload, problems: int) -> Side:
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
        best = max(
            best, (_llama_speed(one, prompts, work.rollouts, max(2, work.tokens // 2)), unified)
        )
        one.close()
    chosen, prompts = made(best[1])
    chosen.rollouts(prompts, work.rollouts, 2)

    def run() -> float:
        assert quiet, "the callback lives as long as the model"
        return _llama_speed(chosen, prompts, work.rollouts, work.tokens)

    how = "one cache for all sequences" if best[1] else "a cache for each sequence"
    return Side(
        run,
        f"llama.cpp on {path.name}, top-k {TOP_K}, {_cores()} threads, {how} (the faster), "
        "without soft prompts",
    )


def _chat(text: str, work: Workload) -> str:
    """The problem in its chat, by the same template as ours."""
    from transformers import AutoTokenizer

    from ..method.prompts import solve_messages
    from ..model.weights import ensure

    tokenizer = AutoTokenizer.from_pretrained(ensure(work.model).path, trust_remote_code=False)
    return tokenizer.apply_chat_template(
        solve_messages(text), tokenize=False, add_generation_prompt=True
    )


def _llama_speed(one: Sequences, prompts: list[list[int]], each: int, tokens: int) -> float:
    began = time.perf_counter()
    made = one.rollouts(prompts, each, tokens)
    return made / (time.perf_counter() - began)


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
