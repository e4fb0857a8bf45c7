"""Charts: the drawing says exactly what the numbers say."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.faces.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Mark,
    Series,
    line_chart,
    share_bar,
    stacked_bars,
    ticks,
    time_labels,
)

SVG = "{http://www.w3.org/2000/svg}"
DAY = 86400.0
FIRST = 1_357_041_600.0  # 1 January 2013, noon UTC


def chart(*series: Series, times: int = 3, **facts) -> Chart:
    return Chart(
        name="accuracy",
        title="Accuracy",
        description="Share of right answers.",
        times=tuple(FIRST + day * DAY for day in range(times)),
        series=series,
        **facts,
    )


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))  # noqa: S314 (our own)


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_a_line_goes_through_its_values_on_the_scale_that_the_axis_shows():
    root = parse(line_chart(chart(Series("flights:1", (0.0, 10.0, 5.0)))))
    assert texts(root) == ["0", "2.5", "5", "7.5", "10", "1 Jan", "2 Jan", "3 Jan"]
    dots = [(float(dot.get("cx", "")), float(dot.get("cy", ""))) for dot in root.iter(f"{SVG}circle")]
    left, right = LEFT + 4, WIDTH - RIGHT - 4
    foot, top = HEIGHT - BOTTOM, TOP
    assert dots == [(left, foot), ((left + right) / 2, top), (right, (foot + top) / 2)]
    (path,) = [path for path in root.iter(f"{SVG}path") if path.get("class") == "line s0"]
    assert path.get("d") == "".join(f"{'M' if at == 0 else 'L'}{x:g} {y:g}" for at, (x, y) in enumerate(dots))


def test_a_missing_value_leaves_a_gap_and_no_dot():
    root = parse(line_chart(chart(Series("a", (1.0, None, 2.0, 3.0)), times=4)))
    (path,) = root.iter(f"{SVG}path")
    assert re.sub(r"[-\d. ]+", "", path.get("d", "")) == "MML"
    assert len(list(root.iter(f"{SVG}circle"))) == 3


def test_a_band_is_inside_the_scale_and_has_a_piece_for_each_stretch():
    band = ((1.0, 9.0), None, (2.0, 8.0), (2.0, 12.0))
    root = parse(line_chart(chart(Series("a", (5.0, 5.0, 5.0, 5.0), band), times=4)))
    (area,) = [path for path in root.iter(f"{SVG}path") if path.get("class") == "band s0"]
    assert area.get("d", "").count("Z") == 2
    heights = [float(number) for number in re.findall(r" ([\d.]+)", area.get("d", ""))]
    assert all(TOP <= height <= HEIGHT - BOTTOM for height in heights)


def test_bars_stand_on_each_other_from_zero_and_as_high_as_their_values():
    root = parse(stacked_bars(chart(Series("a", (60.0, 20.0, None)), Series("b", (40.0, 0.0, 100.0), colour=1))))
    bars = [
        (bar.get("class"), float(bar.get("y", "")), float(bar.get("height", ""))) for bar in root.iter(f"{SVG}rect")
    ]
    foot, room = HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    assert [kind for kind, _, _ in bars] == ["bar s0", "bar s1", "bar s0", "bar s1"]
    assert [round(height / room, 2) for _, _, height in bars] == [0.6, 0.4, 0.2, 1.0]
    assert bars[0][1] + bars[0][2] == pytest.approx(foot)
    assert bars[1][1] + bars[1][2] == pytest.approx(bars[0][1])


def test_every_value_says_when_whose_and_how_much_to_the_pointer():
    svg = line_chart(chart(Series("flights:1", (0.75, None, 1200.0)), unit="USD"))
    tips = [title.text for title in parse(svg).iter(f"{SVG}title")][1:]
    assert tips == ["2013-01-01 12:00, flights:1: 0.75 USD", "2013-01-03 12:00, flights:1: 1,200 USD"]


def test_a_drawing_has_a_name_and_words_for_those_who_cannot_see_it():
    root = parse(line_chart(chart(Series("a", (1.0, 2.0, 3.0)), unit="USD")))
    assert root.get("role") == "img"
    named = {element.get("id"): element.text for element in root if element.get("id")}
    assert [named[part] for part in root.get("aria-labelledby", "").split()] == ["Accuracy", "Share of right answers."]
    assert "USD" in texts(root)


def test_a_moment_is_marked_only_inside_the_drawing():
    marks = (Mark(FIRST - 1, "before"), Mark(FIRST + DAY, "flights:2 promoted"), Mark(FIRST + 9 * DAY, "after"))
    root = parse(line_chart(chart(Series("a", (1.0, 2.0, 3.0)), marks=marks)))
    (line,) = [line for line in root.iter(f"{SVG}line") if line.get("class") == "mark"]
    assert line[0].text == "flights:2 promoted"


def test_names_are_escaped_and_nothing_is_an_inline_style_or_a_script():
    hostile = '"><script>alert(1)</script>'
    drawn = Chart(hostile, hostile, hostile, (FIRST,), (Series(hostile, (1.0,)),), hostile, (Mark(FIRST, hostile),))
    for svg in (line_chart(drawn), stacked_bars(drawn), share_bar([(hostile, 1.0, 0)])):
        parse(svg)
        assert "<script" not in svg
        assert "style=" not in svg


def test_shares_lie_side_by_side_and_are_said():
    root = parse(share_bar([("flights:1", 0.9, 0), ("flights:2", 0.1, 1)]))
    assert [(bar.get("x"), bar.get("width")) for bar in root.iter(f"{SVG}rect")] == [("0%", "90%"), ("90%", "10%")]
    assert root.get("aria-label") == "flights:1 90%, flights:2 10%"


def test_a_chart_of_one_moment_and_a_chart_of_none_are_drawn():
    assert len(list(parse(line_chart(chart(Series("a", (3.0,)), times=1))).iter(f"{SVG}circle"))) == 1
    assert len(list(parse(stacked_bars(chart(Series("a", (3.0,)), times=1))).iter(f"{SVG}rect"))) == 1
    for draw in (line_chart, stacked_bars):
        parse(draw(chart(Series("a", ()), times=0)))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="times must rise"):
        line_chart(Chart("x", "", "", (2.0, 1.0), ()))
    with pytest.raises(ValueError, match="not one value for each of 3 times"):
        line_chart(chart(Series("a", (1.0,))))
    with pytest.raises(ValueError, match="not one value for each of 3 times"):
        line_chart(chart(Series("a", (1.0, 2.0, 3.0), ((0.0, 1.0),))))
    with pytest.raises(ValueError, match="below zero"):
        stacked_bars(chart(Series("a", (1.0, -2.0, 3.0))))


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30))
def test_whatever_the_values_every_dot_is_inside_and_the_ticks_are_few_and_around_them(values: list[float]):
    scale = ticks(min(values), max(values))
    span = max(values) - min(values)
    slack = 1e-6 * max(span, abs(values[0]), 1.0)
    assert scale[0] <= min(values) + slack
    assert scale[-1] >= max(values) - slack
    assert 2 <= len(scale) <= 8
    root = parse(line_chart(chart(Series("a", tuple(values)), times=len(values))))
    for dot in root.iter(f"{SVG}circle"):
        assert 0 <= float(dot.get("cx", "")) <= WIDTH
        assert TOP <= float(dot.get("cy", "")) <= HEIGHT - BOTTOM


@pytest.mark.parametrize(("days", "first"), [(0.5, "12:00"), (30, "1 Jan"), (900, "Jan 2013")])
def test_times_are_labelled_as_exactly_as_their_span_asks(days: float, first: str):
    labels = time_labels([FIRST, FIRST + days * DAY])
    assert labels[0] == (FIRST, first)


def test_at_most_five_times_are_labelled():
    assert len(time_labels([FIRST + day * DAY for day in range(60)])) <= 5
