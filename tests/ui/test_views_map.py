"""The map as data and as words, without a browser."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentmem.records import Event, Hit, MemoryInfo, Problem
from latentmem.ui.map import messages, projection
from latentmem.ui.map.atlas import bits_of, chosen_rows
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
def test_the_points_come_back_from_their_strings() -> None:
    sent = messages.points(INFOS, PLANE.points, "s")
    xy = np.frombuffer(base64.b64decode(sent["xy"]), "<f4").reshape(-1, 2)
    np.testing.assert_allclose(xy, PLANE.points, rtol=1e-6)
    assert sent["ids"].split("\n") == IDS and sent["n"] == 12
    assert sent["names"].split("\n")[3] == messages.point_words(INFOS[3])


@pytest.mark.parametrize("text", [*NASTY, "two\nlines\tand\rmore\x85end"])
def test_a_name_is_one_line_whatever_it_says(text: str) -> None:
    info = replace(INFOS[0], name=text, label=text)
    words = messages.point_words(info)
    assert len(words.splitlines()) == 1
    json.dumps(messages.points([info], PLANE.points[:1], "s")).encode()


@pytest.mark.parametrize("colour_by", messages.COLOUR_BY.values())
def test_every_colour_has_a_byte_a_point_and_a_legend(colour_by: str) -> None:
    tags = {IDS[0]: ("keep",), IDS[1]: ("keep", "teach")}
    sent = json.loads(json.dumps(messages.paint(INFOS, tags, colour_by, "s"), allow_nan=False))
    codes = np.frombuffer(base64.b64decode(sent["codes"]), np.uint8)
    assert len(codes) == 12
    if sent["scale"]:
        assert (
            codes.max() < len(sent["scale"]["colours"]) == messages.LEVELS
            and sent["scale"]["low"]
            and sent["scale"]["high"]
        )
    else:
        assert [int((codes == i).sum()) for i in range(len(sent["groups"]))] == [
            g["count"] for g in sent["groups"]
        ]
    if colour_by == "helped":  # zero lies in the middle, whatever the extremes
        assert (sent["scale"]["low"], sent["scale"]["high"]) == ("−2", "+2") and codes[5] in (
            31,
            32,
        )
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
    assert (
        legend[-2]["name"] == "13 others"
        and legend[-2]["count"] == 26
        and legend[-1]["symbol"] == "x"
    )
    assert len(codes) == 81 and codes[-1] == len(legend) - 1


def test_the_scale_runs_from_blue_over_grey_to_orange() -> None:
    assert messages.scale_colours(3) == ["#0072b2", "#a9adb3", "#e69f00"]


def test_an_empty_bank_has_no_figure() -> None:
    assert messages.map_figure([], None) == {"points": None, "paint": None}
    figure = json.loads(json.dumps(messages.map_figure(INFOS, PLANE)))
    assert figure["points"]["n"] == 12 and figure["paint"]["groups"]


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
    assert [a["text"] for a in m["layout"]["annotations"]] == ["0.90", "0.51"]
    edges, star = m["data"]
    assert edges["x"][0] == pytest.approx(PLANE.points[0][0]) and edges["x"][1] == pytest.approx(
        PLANE.points[FAR][0]
    )
    assert (
        star["name"] == "your problem"
        and m["star"] == pytest.approx(list(PLANE.points[0]))
        and len(m["star_text"]) <= 90
    )
    assert (
        m["lit"] == [FAR, 5] and m["chosen"] == -1 and "joined to the 2 most similar" in m["words"]
    )


def test_the_open_memory_is_joined_to_its_neighbours() -> None:
    m = marked(where=where(3, 5), chosen=IDS[3], hits=[hit(5)])
    assert m["chosen"] == 3 and m["lit"] == [5, 3] and len(m["data"]) == 1 and m["star"] is None
    lonely = marked(where=where(3), chosen=IDS[3])
    assert lonely["lit"] == [3] and lonely["data"] == []


def test_with_a_star_the_edges_begin_there_also_when_a_memory_is_open() -> None:
    m = marked(where=where(3, 5), chosen=IDS[3], star=np.array([9.0, 9.0]), hits=[hit(5)])
    assert m["data"][0]["x"][0] == 9.0 and m["chosen"] == 3 and m["lit"] == [5, 3]


def test_hits_without_a_place_on_the_map_are_left_out() -> None:
    m = marked(where={}, star=np.zeros(2), hits=[hit(5)])
    assert m["layout"]["annotations"] == [] and m["lit"] == []


def test_a_hit_at_the_very_place_of_the_star_has_its_label_above() -> None:
    [label] = marked(where=where(5), star=PLANE.points[5], hits=[hit(5)])["layout"]["annotations"]
    assert label["yshift"] > 0 == label["xshift"]


def test_no_label_of_an_edge_touches_the_ring_of_its_hit() -> None:
    """A label is about 30 x 19 pixels, the ring of an open memory reaches 13 from its middle."""
    for angle in np.linspace(0, 2 * np.pi, 73):
        star = PLANE.points[5] - np.array([np.cos(angle), np.sin(angle)])
        [label] = marked(where=where(5), star=star, hits=[hit(5)])["layout"]["annotations"]
        away = np.hypot(max(0, abs(label["xshift"]) - 15), max(0, abs(label["yshift"]) - 9.5))
        assert 13 <= away <= 20, angle


@given(st.sets(st.integers(0, 200)))
def test_bits_and_back(rows: set[int]) -> None:
    names = tuple(f"m{i}" for i in range(201))
    assert chosen_rows(bits_of(sorted(rows), 201), names) == [names[i] for i in sorted(rows)]
    assert messages.lit(sorted(rows), 201, "s")["count"] == len(rows)
    assert chosen_rows(b"", names) == [] and chosen_rows(b"\xff" * 99, names) == list(names)


# ------------------------------------------------------------------ groups and density
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
    assert (
        "train" in left
        and "garden" in right
        and not left & right
        and not (left | right) & {"does", "many", "how"}
    )
    assert found == projection.groups(points, texts), "the same every time"
    sent = messages.extras(found, projection.density(points), "s")
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
    [label] = messages.extras([projection.Group(0, 0, (text,), 3)], None, "s")["labels"]
    assert "<" not in label["text"]


def test_the_density_is_highest_where_most_points_are() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal((0, 0), 0.2, (90, 2)), rng.uniform(-3, 5, (30, 2))])
    dense = projection.density(points)
    z = np.array(dense["z"])
    row, column = np.unravel_index(z.argmax(), z.shape)
    assert z.max() == 1 and abs(dense["x"][column]) < 0.4 and abs(dense["y"][row]) < 0.4
    assert (
        projection.density(points[:5]) is None and projection.density(np.zeros((20, 2))) is not None
    )


# ------------------------------------------------------------------ trust
def test_the_words_say_what_the_picture_shows_and_how_far_it_is_right() -> None:
    said = str(messages.trust(PLANE, 12, measured=(0.913, 12)))
    assert (
        f"{percent(PLANE.explained)} of the" in said
        and "Trustworthiness 0.91" in said
        and "mostly near in truth" in said
    )
    other = str(
        messages.trust(Plane(PLANE.points, "tsne", beside=2), 12, left_out=1, measured=(0.5, 9))
    )
    assert (
        "distances between groups" in other
        and "2 memories were placed" in other
        and "1 memory has no place" in other
    )
    assert "do not trust" in other and "on a sample of 9" in other
    assert messages.trust(None, 0) == "" and "Trustworthiness" not in messages.trust(PLANE, 12)


def test_a_warning_names_both_where_the_picture_misleads() -> None:
    near = next(i for i in np.argsort(((PLANE.points - PLANE.points[0]) ** 2).sum(axis=1)) if i)
    said = str(messages.misleads(INFOS, PLANE, PLANE.points[0], [hit(FAR, 0.95)]))
    assert (
        f"“{INFOS[0].name}” looks nearest" in said
        and f"is “{INFOS[FAR].name}” (0.95)" in said
        and 'role="alert"' in said
    )
    assert messages.misleads(INFOS, PLANE, PLANE.points[FAR], [hit(FAR)]) == ""
    # from an open memory: itself does not count as its nearest
    assert f"“{INFOS[near].name}” (0.20)" in messages.misleads(
        INFOS, PLANE, PLANE.points[0], [hit(FAR), hit(near, 0.2)], 0
    )
    assert messages.misleads(INFOS, PLANE, PLANE.points[0], [hit(near)], 0) == ""
    # two memories of one problem are equally near
    assert (
        messages.misleads(INFOS, PLANE, PLANE.points[0], [hit(FAR, 0.9), hit(near, 0.899)], 0) == ""
    )
    assert (
        messages.misleads(INFOS, PLANE, None, [hit(near)])
        == ""
        == messages.misleads(INFOS, PLANE, PLANE.points[0], [])
    )


def test_a_quarantined_memory_may_look_nearest_without_a_warning() -> None:
    shut = [replace(i, quarantined=k == 0) for k, i in enumerate(INFOS)]
    near = next(i for i in np.argsort(((PLANE.points - PLANE.points[0]) ** 2).sum(axis=1)) if i)
    assert messages.misleads(shut, PLANE, PLANE.points[0], [hit(int(near))]) == ""
