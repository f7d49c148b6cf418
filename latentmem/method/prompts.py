"""The frozen prompt templates. One character after \\boxed{} can change results (MemGen), so they
stay as they are."""

from __future__ import annotations

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def solve_messages(problem: str) -> list[dict[str, str]]:
    """The chat that asks for a solution. The system turn is the model's own default."""
    return _asked(f"{problem.strip()}\n\n{INSTRUCTION}")


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def judge_messages(problem: str, solution: str) -> list[dict[str, str]]:
    """The chat whose next token, Yes or No, judges a solution."""
    return _asked(
        f"Problem:\n{problem.strip()}\n\nProposed solution:\n{solution.strip()}\n\n"
        "Is the final answer of this proposed solution correct? Answer with one word, Yes or No."
    )


# The templates below are for the comparison (`evaluation/baselines/`): they put the past into the
# context.


def turn_messages(past: str, trace: str, problem: str) -> list[dict[str, str]]:
    """A past problem and its trace as the turn before this one."""
    return [
        *solve_messages(past),
        {"role": "assistant", "content": trace.strip()},
        *solve_messages(problem),
    ]


def refine_messages(problem: str, trace: str) -> list[dict[str, str]]:
    """The chat in which the model looks back at its own trace and writes a lesson."""
    return [
        *solve_messages(problem),
        {"role": "assistant", "content": trace.strip()},
        *_asked(
            "Look back at your solution. Check every step, and note what was easy to get wrong. "
            "Then write a short lesson for solving similar problems: the kind of problem, the "
            "steps that solve it, and the mistakes to avoid. Write only the lesson."
        ),
    ]


def lesson_messages(past: str, lesson: str, problem: str) -> list[dict[str, str]]:
    """The chat that asks for a solution with a lesson from a past problem in front."""
    return _asked(
        f"A lesson from a similar problem that you solved before:\n\nProblem: {past.strip()}\n\n"
        f"Lesson: {lesson.strip()}\n\n{_now(problem)}"
    )


def _now(problem: str) -> str:
    return f"Now solve this problem.\n\n{solve_messages(problem)[0]['content']}"


def strategy_messages(problem: str, agreeing: str, other: str | None) -> list[dict[str, str]]:
    """The chat that distils strategies from a trace that agrees with the majority and one that does
    not, if there is one (ReasoningBank, arXiv 2509.25140; the vote judges success and failure, not
    the truth)."""
    wrong = f"\n\nA solution that is probably wrong:\n{other.strip()}" if other else ""
    return _asked(
        f"Problem:\n{problem.strip()}\n\nA solution that is probably right:\n{agreeing.strip()}"
        f"{wrong}\n\nWhat strategies does this teach for similar problems in the future? Write at "
        "most three. Do not repeat the problem or its numbers. Use exactly this form for each:\n"
        "Title: a few words\nDescription: one sentence\nContent: one to three sentences"
    )


def strategies_messages(strategies: str, problem: str) -> list[dict[str, str]]:
    """The chat that asks for a solution with strategies from past experience in front."""
    help_ = f"Strategies from past experience that may help:\n\n{strategies.strip()}"
    return _asked(f"{help_}\n\n{_now(problem)}")
