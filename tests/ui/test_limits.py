"""A request that is too long is refused, whether it names its length or not; uploads pass."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from latentmem.ui import limits


async def _length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def client() -> TestClient:
    routes = [Route(path, _length, methods=["POST"]) for path in ("/call", "/gradio_api/upload")]
    options = limits.server_options()
    app = Starlette(routes=[*routes, *options["routes"]], middleware=options["middleware"])
    return TestClient(app)


def test_a_short_request_and_an_upload_pass(client: TestClient) -> None:
    assert client.post("/call", content=b"x" * 1000).text == "1000"
    assert client.post("/call", content=b"x" * limits.MOST_BODY).status_code == 200
    long = b"x" * (limits.MOST_BODY + 1)
    assert client.post("/gradio_api/upload", content=long).text == str(len(long))


@pytest.mark.parametrize("named", [True, False])
def test_a_long_request_is_refused_in_one_sentence(client: TestClient, named: bool) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * (limits.MOST_BODY // 10)

    answer = client.post("/call", content=b"x" * (limits.MOST_BODY + 1) if named else parts())
    assert answer.status_code == 413
    assert answer.text == "The request is longer than 1048576 bytes: send less, or upload a file."


def test_the_server_says_that_it_lives(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
