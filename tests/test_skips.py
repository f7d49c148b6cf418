"""What may be skipped where every test should run, and that chromium is there for those that need
it."""

from __future__ import annotations

import pytest

from .browser_page import CHROMIUM, DRIVER
from .skips import ALLOWED

pytest_plugins = "pytester"
SKIPPED = """
import pytest
def test_package(): pytest.importorskip("no_such_package")
@pytest.mark.skip(reason="needs chromium")
def test_browser(): pass
@pytest.mark.skipif(True, reason="needs a CUDA device")
def test_cuda(): pass
@pytest.mark.skipif(True, reason="needs the extra mcp")
def test_mcp(): pass
@pytest.mark.xfail
def test_known(): assert False
"""


@pytest.mark.parametrize(
    ("which", "counts"),
    [
        ("any", {"skipped": 4}),
        # a mark skips in a test's setup: an error
        ("machine", {"skipped": 1, "failed": 1, "errors": 2}),
    ],
    ids=["any", "machine"],
)
def test_a_skip_that_could_be_mended_fails_where_it_is_asked_for(
    pytester: pytest.Pytester, which: str, counts: dict[str, int]
) -> None:
    pytester.makepyfile(SKIPPED)
    done = pytester.runpytest("-p", "tests.skips", "--skips", which, "-p", "no:cacheprovider")
    done.assert_outcomes(xfailed=1, **counts)
    if which != "any":
        done.stdout.fnmatch_lines(["*test_package was skipped*no_such_package*"])


def test_what_may_be_skipped_is_no_package_and_no_program() -> None:
    assert not [
        reason
        for reason in ALLOWED["machine"]
        if "package" in reason or "extra" in reason or "chrom" in reason
    ]


@pytest.mark.browser
def test_chromium_is_there() -> None:
    """Where it is not, the other tests of a browser are skipped, and this one says so."""
    assert CHROMIUM and DRIVER, (
        "needs chromium and chromedriver on the path, Debian's chromium and chromium-driver"
    )
