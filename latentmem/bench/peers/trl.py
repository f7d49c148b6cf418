"""TRL's GRPOTrainer with PEFT's prompt tuning: the same rollouts, rewards, steps and soft prompt."""

from __future__ import annotations

import tempfile
import time
from statistics import median
from typing import Any

from ..workloads import PROBLEMS, SHARE, Side, Work
from . import package
from .hf import load


def one_memory(work: Work) -> Side:
    """Seconds for one memory, extrapolated from `peer_steps` steps. Without gradient checkpointing,
    which is slower."""
    model, tokenizer = _parts(work)
    train(model, tokenizer, work, tokens=16, steps=1)  # warms up
    return Side(
        lambda: work.steps * median(train(model, tokenizer, work, work.tokens, work.peer_steps)),
        f"TRL measured for {work.peer_steps} of {work.steps} steps and extrapolated, loading not "
        "counted",
    )


def peak_memory(work: Work) -> Side:
    """GB of this process's peak, with loading. With gradient checkpointing, TRL's default, which
    needs less."""
    from ..workloads import peak_bytes

    model, tokenizer = _parts(work)

    def run() -> float:
        train(model, tokenizer, work, work.tokens, work.memory_steps, checkpointing=True)
        return peak_bytes()

    return Side(run, "TRL with gradient checkpointing")


def _parts(work: Work) -> tuple[Any, Any]:
    package("trl", "trl")
    package("datasets", "datasets")
    import torch

    from ...model.weights import ensure

    return load(str(ensure(work.model).path), getattr(torch, work.peer_dtype))


def mend(model: Any) -> None:
    """Let a PEFT model with a soft prompt decode one token a step, with any PEFT.

    PEFT 0.21 looks for the cache as `past_key_values`, where transformers 5.24 says `cache`. Not
    finding it, it inserts the whole soft prompt again at every token, which gives other text for
    many times the work: no peer to be compared with.
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
    model: Any, tokenizer: Any, work: Work, tokens: int, steps: int, *, checkpointing: bool = False
) -> list[float]:
    """Seconds of each of `steps` GRPO steps on one problem."""
    import torch
    from datasets import Dataset
    from peft import PromptTuningConfig, PromptTuningInit, TaskType
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from ...method.prompts import solve_messages

    class Clock(TrainerCallback):
        """Rollouts, forward, backward and update all lie between the two calls."""

        began, took = 0.0, []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.took.append(time.perf_counter() - self.began)

    clock = Clock()
    clock.took = []
    data = Dataset.from_list([{"prompt": solve_messages(PROBLEMS[0].text)}] * work.rollouts)
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
            per_device_train_batch_size=work.rollouts,
            num_generations=work.rollouts,
            max_steps=steps,
            gradient_accumulation_steps=1,
            max_completion_length=tokens,
            temperature=work.temperature,
            top_k=0,
            top_p=1.0,
            learning_rate=work.learning_rate,
            lr_scheduler_type="constant",
            beta=0.0,
            max_grad_norm=1.0,
            bf16=False,
            gradient_checkpointing=checkpointing,
            use_cpu=work.device == "cpu" or not torch.cuda.is_available(),
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=work.seed % 2**32,
            generation_kwargs={"min_new_tokens": tokens},
        )  # no row ends early: ours do not either
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=rewards,
            args=config,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=soft,
            callbacks=[clock],
        )
        mend(trainer.model)
        trainer.train()
    assert len(clock.took) == steps, "every step was seen"
    return clock.took
