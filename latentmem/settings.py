"""All settings, checked once. Only `engine.py` and the entry points read them; stages take plain
arguments.

Every field can be set in the environment as LATENTMEM_<FIELD>, e.g. LATENTMEM_MODEL=smollm2-135m.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .records import MOST_TOKENS, KeyKind, LatentmemError, VerifierName


class Settings(BaseSettings):
    """What the engine does by default. Frozen; `changed(...)` gives a checked copy."""

    model_config = SettingsConfigDict(
        env_prefix="LATENTMEM_",
        env_ignore_empty=True,  # LATENTMEM_STEPS= is as if it were not there
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
    )

    model: str = Field(
        "qwen2.5-coder-0.5b",
        description="A name from `weights.MODELS`, a hub id or a local folder.",
    )
    embedder: str = Field(
        "all-minilm-l6-v2",
        description="The sentence embedder behind `input` keys; a bank keeps to one.",
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="auto: cuda, then mps, then cpu."
    )
    dtype: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto",
        description="How matrices are multiplied; auto: int8 for sampling where a CPU has it "
        "natively, and bfloat16 or "
        "float32, whichever is native, for the rest.",
    )
    bank: Path = Field(
        default_factory=lambda: user_data_path("latentmem", False) / "bank.sqlite",
        description="The file that holds the memories.",
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Every draw comes from (seed, problem id, step, row)."
    )

    rollouts: int = Field(8, ge=1, le=256, description="Traces sampled per problem (paper: 8).")
    temperature: float = Field(0.8, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling; 1 keeps every token.")
    max_new_tokens: int = Field(
        320, ge=1, le=8192, description="A trace that is longer is cut off and does not vote."
    )
    stop_when_decided: bool = Field(
        False,
        description="An answer stops sampling when no open trace can change it, nor whether its "
        "vote may be learnt from. The app's Solve does.",
    )
    max_problem_chars: int = Field(
        4000, ge=1, le=100_000, description="A longer problem is refused."
    )

    recipe: Literal["fast", "paper"] = Field(
        "paper",
        description="fast: layer vectors learn the attempts that won the vote. paper: a soft "
        "prompt, by GRPO on fresh attempts.",
    )
    virtual_tokens: int = Field(
        20, ge=1, le=MOST_TOKENS, description="Length of a soft prompt (paper: 20)."
    )
    init_text: str = Field(
        "Solve the problem step by step, check each step, and put the final answer within "
        "\\boxed{}.",
        min_length=1,
        description="The soft prompt starts as the embeddings of this text.",
    )
    steps: int = Field(
        10,
        ge=1,
        le=1000,
        description="Gradient steps (paper: 10).",
    )
    learning_rate: float = Field(
        1e-3,
        gt=0,
        le=1,
        description="AdamW, of recipe=paper; 5e-3 collapsed the default model in ten steps.",
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    advantage: Literal["std", "mean"] = Field(
        "std", description="Rewards centred and divided by std, or centred only."
    )
    gate_votes: int = Field(
        3, ge=1, description="Learn only if the majority has at least this many votes (SCRL)."
    )
    gate_lead: int = Field(
        2, ge=0, description="... and leads the runner-up by at least this many (SCRL)."
    )

    pseudo_label: Literal["step", "first"] = Field(
        "step",
        description="Reward agreement with the majority of the step's own rollouts (paper), or of "
        "the first vote.",
    )
    entropy_bonus: float = Field(
        0.0, ge=0, le=10, description="Reward for unlikely tokens, so that traces stay different."
    )
    max_shift: float = Field(
        0.0,
        ge=0,
        description="Trust region: how far a prompt may move from its start, relatively; 0: any.",
    )
    keep: Literal["best", "last"] = Field(
        "best", description="The prompt of the step that agreed best, or of the last one."
    )

    key: KeyKind = Field(
        "input", description="What retrieval compares: sentence embedding, or KV activations."
    )
    k: int = Field(
        1, ge=1, le=100, description="How many memories are looked up; the best one is tried."
    )
    min_similarity: float = Field(
        0.25, ge=-1, le=1, description="A memory less similar than this is not tried."
    )
    verifier: VerifierName = Field(
        "vote_share",
        description="Who decides when memory and model disagree; with one rollout, which always "
        "ties, the judge.",
    )

    starter: bool = Field(
        True, description="A new bank begins with the memories of examples/bank.zip."
    )
    mcp: bool = Field(
        False,
        description="Offer the app's endpoints as tools of the Model Context Protocol, not in a "
        "shared app.",
    )
    hosted: bool = Field(
        default_factory=lambda: bool(os.environ.get("SPACE_ID")),
        description="The app is shared: the bank is read-only and visitors have limits (on a "
        "Space: yes).",
    )
    hosted_chars: int = Field(1200, ge=1, description="Longest problem in a shared app.")
    hosted_rollouts: int = Field(8, ge=1, description="Most traces for a vote in a shared app.")
    hosted_new_tokens: int = Field(400, ge=1, description="Longest trace in a shared app.")
    hosted_steps: int = Field(10, ge=1, description="Most gradient steps in a shared app.")
    hosted_memories: int = Field(
        20, ge=0, description="Most memories of one's own in a shared app."
    )
    hosted_queue: int = Field(
        16, ge=1, description="Most actions that wait in a shared app; later ones are refused."
    )

    @field_validator("bank")
    @classmethod
    def _bank(cls, value: Path) -> Path:
        try:
            return value.expanduser()
        except RuntimeError:
            raise ValueError("there is no such user; write the whole path") from None

    @field_validator("temperature")
    @classmethod
    def _temperature(cls, value: float) -> float:
        if 0 < value < 1e-3:  # logits divided by it overflow
            raise ValueError("use 0, which is greedy, or at least 0.001")
        return value

    def __init__(self, /, **values: Any) -> None:
        if strange := next((name for name in values if name not in type(self).model_fields), None):
            # Before pydantic sees it: its error would not name the remedy.
            raise LatentmemError(f"There is no setting {strange!r}: `latentmem doctor` lists them.")
        try:
            super().__init__(**values)
        except ValidationError as e:
            raise LatentmemError(_sentence(e)) from None

    def changed(self, **changes: Any) -> Settings:
        """A checked copy with some fields replaced. Raises LatentmemError naming field, value and
        remedy."""
        return type(self)(**{**self.model_dump(), **changes})


# Why the defaults that decide a result are what they are. "Sweep": recipes and recipes-more in
# assets/results, at most two memories a recipe and 100 held-out problems, so the intervals overlap;
# "runs": the folders beside them, all with qwen2.5-coder-0.5b.
WHY: Mapping[str, str] = {
    "recipe": "On its own problem a memory of layer vectors does what its vote did; a soft prompt "
    "by GRPO was not told apart from none.",
    "rollouts": "As in the paper; not swept.",
    "temperature": "Half of the traces are right, pass@8 is 95 % (MultiArith). Sweep "
    "(recipes-more): 0.8 +1.5 points, 1.0 -2.0.",
    "top_p": "Training uses the probabilities of sampling: a cut-off tail would change the policy "
    "gradient.",
    "max_new_tokens": "At 200, three of four traces on the examples were cut off and had no vote.",
    "virtual_tokens": "As in the paper. Sweep: 20 tokens +5.5 points, 5 tokens 0.0.",
    "init_text": "It does little by itself: untrained +1 point and -5 (runs). Sweep "
    "(recipes-more): +1.5 points, another 0.0.",
    "steps": "As in the paper; of ten memories in a run, the best was after step 6 to 10.",
    "learning_rate": "Sweep: 1e-3 +5.5 points, 3e-4 +2.0, 3e-3 -7.0; 5e-3 collapsed the model in "
    "ten steps.",
    "max_grad_norm": "A usual value; the steps of AdamW hardly depend on the gradient's length.",
    "advantage": "Sweep: divided by std +5.5 points, centred only -4.0.",
    "gate_votes": "SCRL, 2603.19880. Right of 100 votes let through: GSM8K 19 of 32, MultiArith "
    "68 of 75; 4: 17 of 21, 61 of 67.",
    "gate_lead": "As gate_votes.",
    "pseudo_label": "As in the paper. Sweep: of each step +5.5 points, of the first vote 0.0.",
    "entropy_bonus": "None, as in the paper. Sweep: none +5.5 points, 0.02 +3.0.",
    "max_shift": "None, as in the paper: ten steps at 1e-3 move a prompt by 0.16 of its size. "
    "Sweep: none +5.5, 0.08 +3.0.",
    "keep": "Agreement goes up and down. Sweep (recipes-more), the same curves: best step +1.5 "
    "points, last step -0.5.",
    "key": "On held-out problems sentence embeddings were ahead by 1, 2 and 8 points in three "
    "runs, only the 8 beyond chance.",
    "k": "ReasoningBank (arXiv 2509.25140): 49.7 % with one, 44.4 % with four.",
    "min_similarity": "Keeps out 6 nearest memories in 1,000 (runs), where nearer ones were worth "
    "no more; not swept.",
    "verifier": "Right side taken: in votes the share 20 of 26; with one trace the judge 108 of "
    "173 (some of them chosen on).",
}


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"])) or "settings"
    said = first["msg"].removeprefix("Value error, ")
    return f"Setting {name} = {first['input']!r} does not fit: {said[0].lower()}{said[1:]}."
