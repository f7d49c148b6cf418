"""The options of the tests. `--night` runs those of damage and fuzz at full length, for hours.
`--skips machine`: a test that skips for a reason that could be mended fails. What .ci/run
asks for.

Without it every skip is allowed, so that the tests run with the extra `test` alone.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

# What a machine, a system or a person's choice lacks, and no installation can add.
OF_THE_MACHINE = (
    "needs a CUDA device",
    "needs a CPU with AVX512-VNNI",
    "asks the system as Linux does",
    "another C library",
    "this cache does not keep its downloads",
    "needs ssh-keygen",
    "at night",
)
ALLOWED = {"machine": OF_THE_MACHINE}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--skips",
        choices=["any", *ALLOWED],
        default="any",
        help="skips that do not fail: any, or those that the machine is the reason for",
    )
    parser.addoption("--night", action="store_true", help="tests of damage and fuzz, full length")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: Any
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    allowed = ALLOWED.get(item.config.getoption("--skips"))
    if report.skipped and allowed is not None and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(allowed):
            report.outcome, report.longrepr = "failed", f"{item.nodeid} was skipped. {reason}"
    return report
