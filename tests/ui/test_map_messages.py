"""The map as data and as words, without a browser."""

from __future__ import annotations

import html
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from latentmem.records import Event, Hit, MemoryInfo, Problem
from latentmem.ui.map import messages, projection
from latentmem.ui.map.projection import Plane, pca
from latentmem.ui.views.html import percent
from tests.fake_engine import FakeEngine, fill_bank
from tests.ui.test_views import NASTY


def bank_of(n: int = 12, sources: str = "abc") -> tuple[list[MemoryInfo], np.ndarray, Plane]:
    """(rows in the order of their keys, keys, PCA)"""
    engine = FakeEngine()
    fill_bank(
        engine,
        [
            Problem(f"{chr(97 + i) * 3} {chr(98 + i) * 3} cat", source=sources[i % len(sources)])
            for i in range(n)
        ],
    )
    for kind, row in (("helped", 0), ("helped", 0), ("hurt", 1)):
        engine.bank.record(Event(engine.bank.infos()[row].id, kind))
    ids, keys = engine.bank.keys("input")
    rows = {i.id: i for i in engine.bank.infos()}
    return [rows[name] for name in ids], keys, pca(keys)


INFOS, KEYS, PLANE = bank_of()
IDS = [i.id for i in INFOS]
FAR = max(range(12), key=lambda i: float(((PLANE.points[i] - PLANE.points[0]) ** 2).sum()))


def hit(row: int, similarity: float = 0.9, rank: int = 1) -> Hit:
    return Hit(IDS[row], INFOS[row].name, similarity, rank)


def where(*rows: int) -> dict[str, np.ndarray]:
    return {IDS[i]: PLANE.points[i] for i in rows}


def marked(**changes: object) -> dict:
    values = {"row": {n: i for i, n in enumerate(IDS)}, **changes}
    return json.loads(json.dumps(messages.mark("s", 12, **values), allow_nan=False))  # type: ignore[arg-type]


# ------------------------------------------------------------------ points and colours
def test_the_points_are_plain_numbers_with_ids_and_words() -> None:
    figure = json.loads(json.dumps(messages.map_figure(INFOS, PLANE, stamp="s")))
    sent = figure["points"]
    np.testing.assert_allclose(np.array([sent["x"], sent["y"]]).T, PLANE.points, atol=1e-5)
    assert sent["ids"] == IDS and sent["names"][3] == messages.point_words(INFOS[3])
    assert sent["stamp"] == figure["paint"]["stamp"] == "s" and figure["paint"]["groups"]


def test_a_sample_is_drawn_and_the_legend_counts_all() -> None:
    shown = np.array([1, 4])
    figure = messages.map_figure(INFOS, PLANE, shown=shown)
    assert figure["points"]["ids"] == [IDS[1], IDS[4]] and len(figure["paint"]["codes"]) == 2
    assert sum(g["count"] for g in figure["paint"]["groups"]) == 12
    aged = messages.map_figure(INFOS, PLANE, shown=shown, colour_by="age")["paint"]
    assert len(aged["codes"]) == 2 and aged["scale"]["cmin"] == 0


@pytest.mark.parametrize("text", [*NASTY, "two\nlines\tand\rmore\x85end"])
def test_the_words_of_a_point_are_escaped_for_plotly(text: str) -> None:
    """What comes back from its markup is the text, in lines that fit beside the pointer."""
    words = messages.point_words(replace(INFOS[0], name=text, label="7"))
    lines = words.split(" <br>")
    assert all("<" not in line and len(html.unescape(line)) <= messages.WIDE for line in lines)
    plain = " ".join(text.encode("utf-8", "replace").decode().split())
    shown = html.unescape("".join(lines)).replace(" ", "")
    assert shown == f"{plain} → 7".replace(" ", "")
    json.dumps(messages.map_figure([INFOS[0]], Plane(PLANE.points[:1]))).encode()


@pytest.mark.parametrize("colour_by", messages.COLOUR_BY.values())
def test_every_colour_has_a_code_a_point_and_a_legend(colour_by: str) -> None:
    tags = {IDS[0]: ("keep",), IDS[1]: ("keep", "teach")}
    painted = messages.paint(INFOS, tags, colour_by, "s", np.arange(12))
    sent = json.loads(json.dumps(painted, allow_nan=False))
    codes, scale = np.array(sent["codes"]), sent["scale"]
    assert len(codes) == 12
    if scale:
        assert scale["cmin"] <= codes.min() <= codes.max() <= scale["cmax"] > scale["cmin"]
        assert scale["colorbar"]["title"]["text"] and scale["showscale"]
    else:
        assert [int((codes == i).sum()) for i in range(len(sent["groups"]))] == [
            g["count"] for g in sent["groups"]
        ]
    if colour_by == "helped":  # zero lies in the middle, whatever the extremes
        assert (scale["cmin"], scale["cmax"]) == (-2, 2)
    if colour_by == "tags":
        assert {g["name"]: g["count"] for g in sent["groups"]} == {
            "keep": 1,
            "keep, teach": 1,
            "no tag": 10,
        }


def test_no_two_groups_look_the_same_and_too_many_become_others() -> None:
    names = [f"g{i}" for i in range(40) for _ in range(2)] + ["quarantined"]
    codes, legend = messages._grouped(names)
    looks = [(g["colour"], g["symbol"]) for g in legend]
    assert len(set(looks)) == len(looks) and len(legend) == messages.MOST_GROUPS + 2
    assert legend[-2]["name"] == "13 others"
    assert legend[-2]["count"] == 26
    assert legend[-1]["symbol"] == "x"
    assert len(codes) == 81 and codes[-1] == len(legend) - 1


def test_names_of_groups_in_the_legend_are_escaped() -> None:
    assert messages._grouped(["a/<b>x</b>"])[1][0]["name"].count("<") == 0


def test_five_thousand_points_are_small() -> None:
    infos, points = INFOS * 417, np.tile(PLANE.points, (417, 1))
    assert len(json.dumps(messages.map_figure(infos, Plane(points)))) < 110 * len(infos)


# ------------------------------------------------------------------ star and edges
def test_the_star_is_joined_to_its_hits_with_similarities_at_the_edges() -> None:
    m = marked(
        where=where(3, FAR, 5),
        star=PLANE.points[0],
        star_text="<b> " * 80,
        hits=[hit(FAR), hit(5, 0.512, 2)],
    )
    assert [a["text"] for a in m["annotations"]] == ["0.90", "0.51"]
    edges, star = m["data"]
    assert edges["x"][:2] == pytest.approx([PLANE.points[0][0], PLANE.points[FAR][0]], abs=1e-5)
    assert star["name"] == "your problem" and star["marker"]["symbol"] == "star"
    assert m["star"] == pytest.approx(list(PLANE.points[0]), abs=1e-5)
    assert "<b>" not in star["text"][0]
    assert m["lit"] == [FAR, 5] and m["open"] == ""
    assert "joined to the 2 most similar" in m["words"]


def test_the_open_memory_has_a_ring_and_is_joined_to_its_neighbours() -> None:
    m = marked(where=where(3, 5), chosen=IDS[3], hits=[hit(5)])
    assert m["open"] == IDS[3] and m["lit"] == [5, 3] and m["star"] is None
    edges, ring = m["data"]
    assert edges["mode"] == "lines" and ring["marker"]["symbol"] == "circle-open"
    lonely = marked(where=where(3), chosen=IDS[3])
    assert lonely["lit"] == [3] and len(lonely["data"]) == 1


def test_with_a_star_the_edges_begin_there_also_when_a_memory_is_open() -> None:
    m = marked(where=where(3, 5), chosen=IDS[3], star=np.array([9.0, 9.0]), hits=[hit(5)])
    assert m["data"][0]["x"][0] == 9.0 and m["open"] == IDS[3] and m["lit"] == [5, 3]


def test_neighbours_that_the_sample_lacks_get_points_of_their_own() -> None:
    m = marked(where=where(3, 5), chosen=IDS[3], hits=[hit(5)], row={IDS[3]: 0})
    beyond = m["data"][-1]
    assert beyond["customdata"] == [IDS[5]] and beyond["x"] == pytest.approx(
        [PLANE.points[5][0]], abs=1e-5
    )
    assert m["lit"] == [0] and INFOS[5].name.split()[0] in beyond["text"][0]


def test_hits_without_a_place_on_the_map_are_left_out() -> None:
    m = marked(where={}, star=np.zeros(2), hits=[hit(5)])
    assert m["annotations"] == [] and m["lit"] == []


def test_a_hit_at_the_very_place_of_the_star_has_its_label_above() -> None:
    [label] = marked(where=where(5), star=PLANE.points[5], hits=[hit(5)])["annotations"]
    assert label["yshift"] > 0 == label["xshift"]


def test_no_label_of_an_edge_touches_the_ring_of_its_hit() -> None:
    """A label is about 30 x 19 pixels, the ring of an open memory reaches 13 from its middle."""
    for angle in np.linspace(0, 2 * np.pi, 73):
        star = PLANE.points[5] - np.array([np.cos(angle), np.sin(angle)])
        [label] = marked(where=where(5), star=star, hits=[hit(5)])["annotations"]
        away = np.hypot(max(0, abs(label["xshift"]) - 15), max(0, abs(label["yshift"]) - 9.5))
        assert 13 <= away <= 20, angle


# ------------------------------------------------------------------ groups
def test_groups_are_named_by_what_is_typical_of_them() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal((x, 0), 0.3, (20, 2)) for x in (0, 10)])
    texts = [f"A train goes {i} km. How many hours does the train take?" for i in range(20)]
    texts += [
        f"A garden is {i} m long. How many metres does a hedge around the garden have?"
        for i in range(20)
    ]
    found = projection.groups(points, texts)
    left, right = (
        {w for g in found if lo < g.x < hi for w in g.words} for lo, hi in ((-2, 2), (8, 12))
    )
    assert "train" in left
    assert "garden" in right
    assert not left & right
    assert not (left | right) & {"does", "many", "how"}
    assert found == projection.groups(points, texts), "the same every time"
    sent = messages.extras(found, "s")
    assert len(sent["labels"]) == len(found) and json.loads(json.dumps(sent, allow_nan=False))


@pytest.mark.parametrize(
    ("n", "texts"), [(5, "a train"), (30, ""), (30, "¿?"), (30, "same words here")]
)
def test_without_typical_words_there_are_no_names(n: int, texts: str) -> None:
    points = np.random.default_rng(0).normal(size=(n, 2))
    assert projection.groups(points, [texts] * n) == []
    assert projection.groups(np.zeros((n, 2)), [texts] * n) == []


@pytest.mark.parametrize("text", [t for t in NASTY if t != "\ud800"])
def test_a_name_of_a_group_is_escaped_for_plotly(text: str) -> None:
    [label] = messages.extras([projection.Group(0, 0, (text,), 3)], "s")["labels"]
    assert "<" not in label["text"]


# ------------------------------------------------------------------ trust
def test_the_words_say_what_the_picture_shows_and_how_far_it_is_right() -> None:
    said = str(messages.trust(PLANE, 12, measured=(0.913, 12)))
    assert f"{percent(PLANE.explained)} of the" in said
    assert "Trustworthiness 0.91" in said
    assert "mostly near in truth" in said
    other = str(
        messages.trust(Plane(PLANE.points, "tsne", beside=2), 12, left_out=1, measured=(0.5, 9))
    )
    assert "distances between groups" in other
    assert "2 memories lie beside" in other
    assert "1 memory has no place" in other
    assert "do not trust" in other and "on a sample of 9" in other
    sampled = str(messages.trust(PLANE, 60_000, shown=5000))
    assert "a random sample of 5,000 of the 60,000 memories" in sampled
    assert "sample" not in str(messages.trust(PLANE, 12, shown=12))
    assert messages.trust(None, 0) == "" and "Trustworthiness" not in messages.trust(PLANE, 12)


def test_a_warning_names_both_where_the_picture_misleads() -> None:
    near = int(np.argsort(np.linalg.norm(PLANE.points - PLANE.points[0], axis=1))[1])
    where = {i.id: point for i, point in zip(INFOS, PLANE.points, strict=True)}

    def said(*hits: Hit, at: Any = PLANE.points[0]) -> str:
        return str(messages.misleads(where, at, hits))

    wrong = said(hit(FAR, 0.95), hit(near, 0.2))
    assert f"“{INFOS[near].name}” (0.20) looks nearest" in wrong and 'role="alert"' in wrong
    assert f"“{INFOS[FAR].name}” (0.95)" in wrong
    assert said(hit(near, 0.95), hit(FAR, 0.2)) == "" == said(hit(FAR, 0.95)), (
        "what is no hit may look nearer"
    )
    assert said(hit(FAR, 0.9), hit(near, 0.89)) == "", "a lead that decides nothing"
    assert said() == "" == said(hit(FAR), at=None)


def test_the_frame_shows_the_star_and_its_hits() -> None:
    where = {i.id: point for i, point in zip(INFOS, PLANE.points, strict=True)}
    sent = messages.mark("s", 3, where, star=PLANE.points[0], hits=[hit(FAR)])
    for (low, high), *inside in zip(sent["frame"], PLANE.points[0], PLANE.points[FAR], strict=True):
        assert all(low < v < high for v in inside)
    assert messages.mark("s", 3, where, chosen=INFOS[0].id, hits=[hit(FAR)])["frame"] is None
