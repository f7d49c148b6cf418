"""The frozen prompt templates. One character after \\boxed{} can change results (MemGen), so these do not change."""

from __future__ import annotations

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def solve_messages(problem: str) -> list[dict[str, str]]:
    """The chat that asks for a solution. The system turn is the model's own default."""
    return [{"role": "user", "content": f"{problem.strip()}\n\n{INSTRUCTION}"}]


def judge_messages(problem: str, solution: str) -> list[dict[str, str]]:
    """The chat whose next token, Yes or No, judges a solution."""
    return [{"role": "user", "content": (
        f"Problem:\n{problem.strip()}\n\nProposed solution:\n{solution.strip()}\n\n"
        "Is the final answer of this proposed solution correct? Answer with one word, Yes or No.")}]
