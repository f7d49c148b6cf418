"""How the endpoints answer: settings that were given, errors as one sentence, and what a client asked last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from ..records import LatentmemError, Receipt, to_dict
from .session import Desk


def given(**settings: Any) -> dict[str, Any]:
    """The settings that a client gave; null means the app's own."""
    return {name: value for name, value in settings.items() if value is not None}


def as_dict(receipt: Receipt) -> dict[str, Any]:
    """A receipt with its sentence and without token ids, for which the digest stands."""
    data = to_dict(receipt) | {"sentence": receipt.sentence()}
    for trace in data["traces"]:
        trace.pop("token_ids")
    return data


def remember(desk: Desk, request: Any, receipt: Receipt) -> None:
    """Keeps a client's receipt for `replay` and `feedback`."""
    run = desk.visit(request).start("solve")
    run.scene.receipt, run.begun, run.done, run.problem = receipt, True, True, receipt.problem.text


def last_receipt(desk: Desk, request: Any) -> Receipt:
    """Of the client's last question."""
    run = desk.visit(request).runs.get("solve")
    if run is None or run.scene.receipt is None:
        raise gr.Error("There is no last question: call solve first.", print_exception=False)
    return run.scene.receipt


def said(action: Callable[[], Any]) -> Any:
    """A LatentmemError as the error message that the client gets."""
    try:
        return action()
    except LatentmemError as e:
        raise gr.Error(str(e), print_exception=False) from None


def kept(records: Iterator[Any], *kinds: type) -> list[Any]:
    """The records of these kinds, once the stream has ended."""
    return said(lambda: [record for record in records if isinstance(record, kinds)])


def last(records: Iterator[Any], kind: type) -> Any:
    """The last record of a kind; every stream has one."""
    return kept(records, kind)[-1]
