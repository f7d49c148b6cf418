"""A shared app: which limits hold, the bank it starts with, and its log. No gradio."""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bank import Bank
from ..files import example
from ..records import LatentmemError
from ..settings import Settings

if TYPE_CHECKING:
    from ..engine import Engine

log = logging.getLogger(__name__)
STARTER = example("bank.zip")
VIRTUAL_TOKENS = 32  # longest soft prompt in a shared app
LIMITED = {
    "max_problem_chars": "characters in a problem",
    "rollouts": "attempts",
    "max_new_tokens": "tokens in an attempt",
    "steps": "gradient steps",
    "virtual_tokens": "virtual tokens",
}


def limits(s: Settings) -> dict[str, int]:
    """Setting -> the most a visitor may ask for; empty where one person has the app alone."""
    if not s.hosted:
        return {}
    return {
        "max_problem_chars": s.hosted_chars,
        "rollouts": s.hosted_rollouts,
        "max_new_tokens": s.hosted_new_tokens,
        "steps": s.hosted_steps,
        "virtual_tokens": VIRTUAL_TOKENS,
    }


def clipped(s: Settings) -> dict[str, int]:
    """The settings that lie above the limits, at their limits."""
    return {name: most for name, most in limits(s).items() if getattr(s, name) > most}


def check(s: Settings, asked: Mapping[str, Any]) -> None:
    """Raises LatentmemError for a setting beyond the limit of a shared app."""
    for name, most in limits(s).items():
        value = asked.get(name)
        if isinstance(value, (int, float)) and value > most:
            raise LatentmemError(
                f"{value:g} {LIMITED[name]} are more than the {most} that this shared app allows: "
                "choose fewer, or run latentmem on your own computer."
            )


def lasting(bank: Path) -> bool | None:
    """On a Space: whether the bank lies on mounted storage, which outlives it. None elsewhere."""
    if not os.environ.get("SPACE_ID"):
        return None
    return any(os.path.ismount(folder) for folder in list(bank.absolute().parents)[:-1])


class WithoutTexts(logging.Formatter):
    """A line of JSON for each record. Of an error its kind and its places in the code: what it says
    may be what a visitor wrote."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            line["error"] = type(error).__name__
            frames = traceback.extract_tb(error.__traceback__)[-8:]
            line["at"] = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in frames]
        return json.dumps(line)


def structured_log() -> None:
    """Logs to standard error without visitors' texts, unless something else was set up."""
    handler = logging.StreamHandler()
    handler.setFormatter(WithoutTexts())
    logging.basicConfig(handlers=[handler])


def prepare(engine: Engine, starter: Path = STARTER) -> Engine:
    """The engine as the app uses it: a new bank has the starter's memories, and a shared app only
    reads it.

    If the starter is missing or damaged, the log says so, and the map begins empty.
    Raises LatentmemError when the bank cannot be opened.
    """
    s = engine.settings
    if s.hosted:
        structured_log()
    path = s.bank
    if str(path) == ":memory:":  # another connection would find another, empty one
        bank = Bank(path)
        if s.starter:
            begin(bank, starter)
        return engine.changed(on_bank=bank)
    try:
        with Bank(path) as bank:
            if s.starter and bank.untouched:
                begin(bank, starter)
    except LatentmemError as e:
        if not (
            s.hosted and os.path.isfile(path)
        ):  # a shared bank may lie where nothing can be written
            raise
        log.warning("%s", e)
    return engine.changed(on_bank=Bank(path, read_only=True)) if s.hosted else engine


def begin(bank: Bank, starter: Path = STARTER) -> int:
    """Adds the starter's memories to a new bank and returns how many they were. The log says what
    is wrong with it."""
    if not starter.is_file():
        log.info("There is no %s, so the bank begins empty.", starter)
        return 0
    try:
        report = bank.import_zip(starter)
    except LatentmemError as e:
        log.warning("The bank begins empty: %s", e)
        return 0
    for sentence in report.refused[:5]:
        log.warning("%s", sentence)
    return report.added
