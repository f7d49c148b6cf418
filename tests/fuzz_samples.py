"""What the fuzz tests share: any JSON, JSON that is wrong in one place, damaged bytes."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import strategies as st

ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["", " ", "\ud800", "\x00", "m0", "off", "1e999", 10**30, "../x", "${1+1}"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def twisted(draw: st.DrawFn, value: Any) -> Any:
    """A copy of a JSON value with one member, however deep, changed, missing or added."""
    if not isinstance(value, (dict, list)) or not value or draw(st.integers(0, 4)) == 0:
        return draw(ANY_JSON)
    where = draw(st.sampled_from(sorted(value) if isinstance(value, dict) else range(len(value))))
    changed = value.copy()
    how = draw(st.integers(0, 9))
    if how == 0:
        del changed[where]
    elif how == 1 and isinstance(changed, dict):
        changed[draw(st.text(max_size=8))] = draw(ANY_JSON)
    elif how == 1:
        changed.insert(where, draw(ANY_JSON))
    else:
        changed[where] = draw(twisted(value[where]))
    return changed


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some overwritten, cut out, put in or cut off."""
    for _ in range(draw(st.integers(1, 4))):
        at, more = draw(st.integers(0, len(data))), draw(st.binary(max_size=8))
        until = at + draw(st.sampled_from([0, 0, len(more), 1, len(data)]))
        data = data[:at] + more + data[until:]
    return data


def is_sentence(text: str) -> bool:
    """Whether an error is one line with an end, and no traceback."""
    return re.fullmatch(r"[^\n]+[.!?]", text) is not None
