"""The views: what a visitor reads, and that foreign text stays text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.engine.run_state import Scene
from latentmem.method.voting import vote
from latentmem.records import Delta, Hit, Problem, Receipt, Retrieval, Route, Status, Vote
from latentmem.settings import Settings
from latentmem.ui.views import about, distillation, memory
from latentmem.ui.views import html as views
from latentmem.ui.views import receipt as views_receipt
from tests.fake_engine import FakeEngine, fake_step, fill_bank
from tests.ui_samples import scene, trace

NASTY = (
    "<img src=x onerror=alert(1)>",
    "${1+1}",
    "{{x}}",
    "\\frac{1}{2}",
    "</div><script>alert(1)</script>",
    "\"' onclick='x'",
    "\ud800",
    "a`b`${x}",
    "&lt;b&gt;",
)


class Tags(HTMLParser):
    """The tags and attributes of a piece of HTML, and whether every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("img", "path", "rect", "circle", "polyline", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def receipt(text: str = "How many?", **changes: object) -> Receipt:
    traces = [trace(0, "7"), trace(1, "8"), trace(2, "7")]
    mine = [replace(t, side="memory", answer="8") for t in traces]
    hit = Hit("m0123456789abcdef", text, 0.81, 1, 0.12)
    base = Receipt(
        "r1",
        Problem(text),
        "8",
        hit.memory_id,
        hit.name,
        (hit,),
        hit,
        "input",
        vote(traces),
        vote(mine, side="memory"),
        Route(
            "memory",
            "8",
            False,
            "The verifier prefers it.",
            {"zero_shot": 0.66, "memory": 1.0},
            "vote_share",
        ),
        3,
        "f" * 64,
        "fake",
        1234,
        12.5,
        {"rollouts": 3},
        "0" * 64,
        tuple(traces + mine),
        "2026-01-01T00:00:00+00:00",
    )
    return replace(base, **changes)


def everything(text: str) -> str:
    """Every view that shows foreign text, with this text in it."""
    s = scene(
        trace(0, text, text=text),
        trace(1, None, text=text),
        trace(2, text, text=text, side="memory"),
    )
    r = receipt(
        text,
        answer=text,
        route=Route("memory", text, False, text, {"memory": 1.0}, text),
        model_name=text,
        zero_shot=vote([trace(0, text)]),
    )
    passed = tuple(replace(hit, passed_over=text) for hit in r.hits)
    r = replace(r, hits=passed)
    engine = FakeEngine()
    fill_bank(engine, [Problem(text, source=text), Problem("An apple and a pear")])
    infos = engine.bank.infos()
    m = engine.bank.get(next(i.id for i in infos if i.problem.source))
    noted = Scene(steps=[replace(fake_step(1, 5, Vote((), 0, 0), ""), note=text)])
    sampled = Settings(model=text, hosted=True)
    parts = [
        views.notice(text),
        views.progress(Status(text, 1, 2)),
        views_receipt.receipt_card(r, engine.bank.info(m.id)),
        about.tiles([Problem(text, source=text)]),
        about.model_facts(sampled, {"rollouts": 8}),
        about.header_facts(sampled, False, 2, 1, status=Status(text, 1, 2)),
        about.header_facts(sampled, False, 2, error=text),
        about.endpoints_table([(text, text, text)], True),
        about.kept_where(Path(text)),
        distillation.distil_status(s, 5),
        distillation.distil_status(Scene(status=Status(text)), 5),
        views_receipt.hits_list(Retrieval("p", "input", passed), 0.9),
        distillation.distil_words(noted),
    ]
    info = engine.bank.info(m.id)
    rows = (
        views.scene_votes(s, True)
        + views.scene_cards(s, False)
        + memory.found_table(infos, infos)
        + memory.head(m, info)
        + memory.body(m, info, engine.bank.events(m.id), engine.neighbours(m.id))
        + views_receipt.compare_columns([(text, r.zero_shot), ("b", r.memory)])
        + views_receipt.compare_table([(text, r.zero_shot, r.memory)])
    )
    return "".join(map(str, parts)) + "".join(html for _, html in rows)


@pytest.mark.parametrize("text", [t for t in NASTY if t != "\ud800"])
def test_foreign_text_is_escaped_everywhere(text: str) -> None:
    found, plain = Tags(everything(text)), Tags(everything("plain"))
    assert set(found.tags) <= set(plain.tags)
    assert found.attributes <= plain.attributes
    assert not found.open
    assert text in found.text


def test_half_a_character_does_not_break_the_transport() -> None:
    json.dumps(views.scene_cards(scene(trace(0, "1", text="\ud800")), True)).encode()


@given(st.text(max_size=60))
def test_any_text_survives_escaping(text: str) -> None:
    html = str(views.notice("x" + text))
    assert Tags(html).tags == ["p"]
    html.encode()


def test_a_trace_that_does_not_vote_says_so() -> None:
    s = scene(trace(0, "7"), trace(1, None), trace(2, "7", finished=False))
    s.add(Delta(3, "still"))
    cards = dict(views.scene_cards(s, True))
    assert "votes" in cards["zero_shot-0"] and "c0" in cards["zero_shot-0"]
    assert "no answer" in cards["zero_shot-1"] and "mute" in cards["zero_shot-1"]
    assert "cut off" in cards["zero_shot-2"] and "mute" in cards["zero_shot-2"]
    assert "writing" in cards["zero_shot-3"]
    assert "stopped" in dict(views.scene_cards(s, False))["zero_shot-3"]


def test_the_bar_counts_votes_silence_and_open_traces() -> None:
    s = scene(trace(0, "7"), trace(1, "8"), trace(2, None), total=5)
    assert "7 say" not in (words := views.vote_words(s.votes["zero_shot"], 5, 3, True))
    assert words == "1 of 5 says 7, 1 says 8; 1 does not vote; 2 still running."
    html = str(views.scene_vote(s, "zero_shot", "Vote", True))
    assert html.count('style="flex:1 0 0"') == 3 and 'style="flex:2 0 0"' in html


def test_nobody_votes_is_said() -> None:
    s = scene(trace(0, None), trace(1, None), total=2)
    assert "none votes" in views.vote_words(s.votes["zero_shot"], 2, 2, False)


def test_the_decided_mark_keeps_its_moment() -> None:
    s = scene(trace(0, "7"), trace(1, "7"), trace(2, "7"), trace(3, "8"), total=4)
    # two more 8 would only draw, and ties go to the earliest
    assert s.decided_after == {"zero_shot": 2}
    assert "decided after 2 of 4" in str(views.scene_vote(s, "zero_shot", "Vote", False))
    two = vote([trace(0, "7"), trace(1, "7")], 2)
    bar = views.vote_bar(two, [0], title="", total=2, finished=2, decided_after=2)
    assert "decided after" not in bar, "the last attempt says nothing new"


def test_the_mark_of_the_decision_hides_no_figure() -> None:
    """Two traces of eight that do not vote, and the decision in their midst: the 2 and the mark are
    at the same place."""
    done = [trace(i, "7") for i in range(5)] + [trace(6, None), trace(7, None)]
    html = str(
        views.vote_bar(vote(done, 8), [0], title="Vote", total=8, finished=7, decided_after=6)
    )
    track = html[html.index('<div class="track">') : html.index("</div>")]
    above, _, bar = track.partition('<div class="bar"')
    assert 'class="mark" style="left:75.00%"' in above and "<b>2</b>" in bar and "mark" not in bar
    css = (Path(views.__file__).parents[1] / "static" / "style.css").read_text(encoding="utf-8")
    lane = int(re.search(r"\.track \{[^}]*padding-top: (\d+)px", css)[1])  # type: ignore[index]
    mark = re.search(r"\.mark \{[^}]*top: 0;[^}]*height: (\d+)px", css)
    assert mark and int(mark[1]) <= lane, "the mark ends above the bar"


@pytest.mark.parametrize("different, named", [(8, 8), (11, 8)])
def test_every_answer_of_a_split_vote_has_its_own_letter(different: int, named: int) -> None:
    traces = [trace(i, answer=str(10 * i)) for i in range(different)]
    html = str(views.stored_vote(vote(traces, different), "Vote"))
    letters = re.findall(r'class="seg c\d"[^>]*>([A-Z]\d*)<', html)
    assert letters == list("ABCDEFGHIJK")[:different]
    assert html.count("<b>×") == named and ("and 3 more" in html) == (different == 11)


@given(st.integers(0, 200), st.integers(0, 200))
def test_two_answers_never_share_colour_and_letter(a: int, b: int) -> None:
    assert (views.letter(a) == views.letter(b)) == (a == b)


def test_an_answer_keeps_its_colour_when_overtaken_and_on_both_sides() -> None:
    s = scene(
        trace(0, "7"),
        trace(1, "8"),
        trace(2, "8"),
        trace(0, "8", side="memory"),
        trace(1, "9", side="memory"),
    )
    colour = {(r.side, r.row): s.colour(r) for r in s.rows.values()}
    assert colour == {
        ("zero_shot", 0): 0,
        ("zero_shot", 1): 1,
        ("zero_shot", 2): 1,
        ("memory", 0): 1,
        ("memory", 1): 2,
    }


def test_fresh_rollouts_take_the_place_of_the_old() -> None:
    s = scene(trace(0, "7", side="memory"), trace(1, "7", side="memory"))
    s.add(Delta(1, "new", "memory"))
    assert [(r.row, r.text) for r in s.side("memory")] == [(1, "new")]
    assert "memory" not in s.votes and not s.colours


@pytest.mark.parametrize(
    ("changes", "css", "words"),
    [
        ({}, "memory", "With the memory “{}”"),
        ({"used": None, "memory_id": None, "memory": None}, "alone", "The model alone"),
        (
            {"memory_id": None},
            "refused",
            "The model alone; the memory “{}” was tried and not followed",
        ),
        (
            {"memory_id": None, "route": Route("zero_shot", "7", True, "Both.")},
            "agreed",
            "The model alone, and the same with the memory “{}”",
        ),
        ({"answer": None, "used": None}, "nobody", "No answer was found"),
    ],
)
def test_the_headline_of_a_receipt(changes: dict, css: str, words: str) -> None:
    r = receipt(**changes)
    words = words.format(r.used.name if r.used else "")
    assert views_receipt.headline(r) == (css, words)
    assert words in Tags(str(views_receipt.receipt_card(r))).text


def test_the_receipt_card_tells_all_but_token_ids() -> None:
    text = Tags(str(views_receipt.receipt_card(receipt()))).text
    for part in (
        "0.810",
        "The first leads by 0.120.",
        "The verifier prefers it.",
        "1 234",
        "12 s",
        "7 (2 of 3 votes)",
        "8 (3 of 3 votes)",
        "share of the votes",
    ):
        assert part in text
    lone = replace(receipt().used, margin=None)  # type: ignore[type-var]
    for chosen in (
        True,
        False,
    ):  # a stored receipt does not say whether a person chose it or the bank held no other
        text = Tags(
            str(views_receipt.receipt_card(receipt(used=lone, hits=(lone,)), chosen=chosen))
        ).text
        assert "leads by" not in text and ("by you" in text) is chosen
    data = json.loads(views_receipt.receipt_json(receipt()))
    assert data["id"] == "r1" and "token_ids" not in data["traces"][0]


@pytest.mark.parametrize(
    ("mode", "limit", "words"),
    [
        ("auto", 0.9, "too far to be tried"),
        ("auto", 0.5, "Nearest memory"),
        ("chosen", 0.9, "Chosen by you"),
        ("off", 0.9, "Memories are off."),
    ],
)
def test_what_was_looked_up(mode: str, limit: float, words: str) -> None:
    r = receipt()
    html = str(
        views_receipt.hits_list(
            Retrieval("p", "input", () if mode == "off" else r.hits), limit, mode
        )
    )
    assert words in html and ("too far" in html) == ("too far" in words)
    assert "no memory that this model can use" in views_receipt.hits_list(
        Retrieval("p", "input", ()), limit
    )
    assert views_receipt.hits_list(None, limit, mode) == ""


def test_the_answer_comes_first_then_why_then_the_details() -> None:
    html = str(views_receipt.receipt_card(receipt(settings={"min_similarity": 0.5})))
    places = ('class="big"', "With the memory", "3 of 3 votes", "prefers it", "tried", "<details")
    at = [html.index(part) for part in places]
    assert at == sorted(at) and html.index("Tokens") > at[-1]
    assert 'style="--least:50.0%"' in html and "<small>tried</small>" in html


def test_columns_share_their_colours() -> None:
    r = receipt()
    [[_, html]] = views_receipt.compare_columns([("without", r.zero_shot), ("with", r.memory)])
    assert "The answers differ." in html
    assert html.index("c0") < html.index("c1")
    assert views_receipt.compare_columns([("one", r.zero_shot)]) == []


def test_the_table_shows_what_was_found_and_marks() -> None:
    engine = FakeEngine()
    fill_bank(engine, [Problem("Ann has cats", source="a"), Problem("Bo has dogs", source="b")])
    engine.bank.quarantine(engine.bank.infos()[0].id, "")
    infos, table = engine.bank.infos(), memory.found_table
    assert "quarantined" in str(table(infos, infos))
    assert "Ann" in str(
        found := table(infos, [i for i in infos if i.problem.source == "a"])
    ) and "Bo" not in str(found)
    assert "No memory contains" in str(table(infos, [])) and "No memory yet" in str(table([], []))


def test_the_picture_of_the_method_names_all_boxes() -> None:
    text = Tags(str(about.method(Settings(rollouts=4, steps=1, virtual_tokens=33)))).text
    assert all(
        word in text
        for word in (
            "A vote",
            "GRPO",
            "Router",
            "Receipt",
            "4 attempts",
            "1 small step",
            "33 virtual tokens",
        )
    )
    assert "twenty" not in text and "ten steps" not in text and "steps1" not in text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1.44, "1.4 s"), (38, "38 s"), (125, "2 min 5 s"), (120, "2 min"), (4800, "1 h 20 min")],
)
def test_durations(seconds: float, words: str) -> None:
    assert views.duration(seconds) == words


def test_the_line_at_the_top_tells_what_is_going_on() -> None:
    def line(*args: Any, **more: Any) -> str:
        return Tags(str(about.header_facts(*args, **more))).text

    s = Settings(hosted=False)
    assert "ready" in line(s, True, 1)
    assert "1 memory" in line(s, True, 1)
    assert "2 memories" in line(s, True, 2)
    assert "loads at first use" in line(s, False, 0)
    loading = Status(f"Downloading {s.model} from the hub: 12 of 491 MB", 12, 491)
    assert "Downloading from the hub: 12 of 491 MB" in line(s, False, 0, status=loading)
    assert "0.5b Loading the model" in line(
        s, False, 6, status=Status(f"Loading {s.model} into memory")
    )
    assert "Loading minilm" in (
        text := line(s, False, 6, status=Status("Loading minilm into memory"))
    )
    assert "into" not in text
    assert "could not be loaded: no network" in line(s, False, 0, error="no network")
    assert "of them yours" not in line(s, True, 5) and "3 of them yours" in line(
        Settings(hosted=True), True, 5, 3
    )


def test_where_memories_are_kept_is_told_as_it_is() -> None:
    def kept(*args: Any) -> str:
        return Tags(str(about.kept_where(Path("/data/bank.sqlite"), *args))).text

    assert "/data/bank.sqlite" in kept() and "emptied" not in kept()
    assert "emptied when it restarts" in kept(
        False, 0, False
    ) and "stays when this Space restarts" in kept(False, 0, True)
    alone = Tags(str(about.kept_where(Path(":memory:")))).text
    assert "in no file" in alone and "gone when it ends" in alone, (
        "a bank that is only tried lasts no longer than the app"
    )
    assert not any(
        words in alone for words in ("In one file", "restarts", ":memory:", "can be forgotten")
    )
    assert "can be forgotten" in kept() and "can be forgotten" not in kept(True, 20)
    assert "latentmem receipts" not in kept(), "a page quotes no command line"
    assert "at most 20" in kept(True, 20)
    assert "nobody else sees them" in kept(True, 20)
    assert "/data" not in kept(True, 20)


@pytest.mark.parametrize(
    "model, told", [("qwen2.5-coder-0.5b", True), ("owner/some-model", False), ("/a/folder", False)]
)
def test_a_checksum_is_claimed_only_for_models_whose_checksum_is_known(
    model: str, told: bool
) -> None:
    assert ("known checksum" in about.model_facts(Settings(model=model), {})) == told
