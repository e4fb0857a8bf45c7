"""The console in a real browser, wide and narrow, light and dark."""

from collections.abc import Iterator

import pytest

from tests.faces.browser import Page, browser
from tests.faces.conftest import ONE_TIME, ControlPlane
from tests.faces.life import OPEN_ALERT


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(autouse=True)
def signed_out(page: Page) -> None:
    page.call("Network.clearBrowserCookies")
    page.complaints.clear()


def sign_in(page: Page, plane: ControlPlane) -> str:
    address = f"http://localhost:{plane.port}"
    page.open(f"{address}/login?token={ONE_TIME}")
    assert page.evaluate("location.href") == f"{address}/"
    page.open(f"{address}/?live=no")  # it stands still while it is looked at
    return address


def overflowing(page: Page) -> list[str]:
    """Parts that reach beyond the screen's right edge."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(part => part.getBoundingClientRect().right > innerWidth + 0.5"
        " && !part.closest('svg') && !part.closest('thead')).map(part => part.tagName + '.' + part.className)"
    )
    return found


@pytest.mark.parametrize(("width", "is_mobile"), [(1400, False), (768, True), (390, True)])
def test_the_page_shows_releases_alerts_and_charts_and_fits_its_screen(
    plane: ControlPlane, page: Page, width: int, is_mobile: bool
):
    page.size(width, is_mobile=is_mobile)
    sign_in(page, plane)
    assert page.text("h1") == "flights"
    assert page.count("#releases tbody tr") == 3
    assert page.count("#alerts article") == 2
    assert page.count("#charts svg.chart") == 6
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert overflowing(page) == []
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('svg.chart text')].map(part => part.getBoundingClientRect().height))"
    )
    assert smallest >= 9  # labels can be read
    assert page.complaints == []  # nothing that our own policy forbids


def test_colours_come_from_the_style_sheet_and_follow_light_and_dark(plane: ControlPlane, page: Page):
    page.size(1400)
    sign_in(page, plane)
    seen = []
    for is_dark in (False, True):
        page.size(1400, is_dark=is_dark)
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        line = page.evaluate("getComputedStyle(document.querySelector('path.line.s0')).stroke")
        seen.append((back, line))
    assert seen == [("rgb(245, 247, 248)", "rgb(11, 110, 143)"), ("rgb(15, 23, 28)", "rgb(77, 180, 214)")]
    shares = page.evaluate(
        "[...document.querySelectorAll('#traffic article:nth-of-type(2) svg.shares rect')]"
        ".map(part => Math.round(part.getBoundingClientRect().width))"
    )
    assert shares[0] == pytest.approx(9 * shares[1], rel=0.05)


def test_an_alert_is_acknowledged_with_a_press_and_the_session_ends_with_another(plane: ControlPlane, page: Page):
    page.size(1400)
    sign_in(page, plane)
    page.click(f"form[action='/alerts/{OPEN_ALERT}/acknowledge'] button")
    assert "looked after by olga" in page.text("#alerts")
    assert (plane.parts.ledger.find_latest("alert", OPEN_ALERT) or {})["acknowledged_by"] == "olga"
    page.click("form[action='/logout'] button")
    assert page.text("h1") == "Sign in"


def test_a_person_signs_in_with_a_token_in_the_form(plane: ControlPlane, page: Page):
    page.size(390, is_mobile=True)
    page.open(f"http://127.0.0.1:{plane.port}/")
    assert page.text("h1") == "Sign in"
    assert overflowing(page) == []
    page.evaluate("document.querySelector('#token').value = 'swt_wrong'")
    page.click("button")
    assert "not valid here" in page.text("main")
    page.evaluate(f"document.querySelector('#token').value = '{plane.tokens['risk']}'")
    page.click("button")
    assert page.text(".person") == "risk"
    assert page.count("form[action^='/alerts/']") == 0


def test_the_page_asks_for_itself_again(plane: ControlPlane, page: Page):
    page.size(1400)
    page.open(sign_in(page, plane))
    page.act(lambda: None)  # nobody does anything, and yet another page is loaded
    assert page.text("h1") == "flights"
