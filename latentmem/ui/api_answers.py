"""How the endpoints answer: what a client sends is checked, errors are one sentence, and what it asked last is remembered."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

import gradio as gr
from pydantic import TypeAdapter, ValidationError

from ..records import LatentmemError, Receipt, to_dict
from .runs import SORRY
from .session import Desk

log = logging.getLogger(__name__)


def checked(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint, for whatever JSON a client sends: null means the default where there is one, numbers may come as text,
    and what does not fit is one sentence. No id may be empty: to the engine that means no memory at all."""
    signature = inspect.signature(fn)

    @functools.wraps(fn)
    def endpoint(*args: Any, **kwargs: Any) -> Any:
        bound, kinds = signature.bind(*args, **kwargs), _kinds(fn)
        for name, value in bound.arguments.items():
            if name not in ("desk", "request"):
                bound.arguments[name] = _fitting(name, value, kinds[name], signature.parameters[name].default)
        return fn(*bound.args, **bound.kwargs)

    return endpoint


@functools.cache
def _kinds(fn: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> its type, or what checks it; made at the first call, since the import would wait for it."""
    hints = {name: kind for name, kind in get_type_hints(fn).items() if name not in ("desk", "request", "return")}
    return {name: kind if kind is str else TypeAdapter(kind) for name, kind in hints.items()}


def _fitting(name: str, value: Any, kind: Any, default: Any) -> Any:
    if value is None and default is not inspect.Parameter.empty:
        return default
    wrong = ""
    if kind is str:  # not by pydantic, which takes no lone surrogates: they are replaced later
        wrong = "" if isinstance(value, str) else "should be a text"
    else:
        try:
            value = kind.validate_python(value)
        except ValidationError as e:
            wrong = e.errors()[0]["msg"].removeprefix("Input ")
    if wrong:
        raise gr.Error(f"{name} = {str(value)[:40]!r} does not fit: it {wrong}.", print_exception=False)
    if name.endswith("_id") and not value.strip():
        raise gr.Error(f"{name} is empty: give the id of a {name.removesuffix('_id')}.", print_exception=False)
    return value


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
    """A LatentmemError as the error message that the client gets; of any other error it is told no more than a visitor."""
    try:
        return action()
    except LatentmemError as e:
        raise gr.Error(str(e), print_exception=False) from None
    except gr.Error:
        raise
    except Exception:
        log.exception("an endpoint failed")
        raise gr.Error(SORRY, print_exception=False) from None


def kept(records: Iterator[Any], *kinds: type) -> list[Any]:
    """The records of these kinds, once the stream has ended."""
    return said(lambda: [record for record in records if isinstance(record, kinds)])


def last(records: Iterator[Any], kind: type) -> Any:
    """The last record of a kind; every stream has one."""
    return kept(records, kind)[-1]
