# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The benchmark's page in a browser."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from destseg_anomalib.report.report import write_report

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "report"))
from fabricated import make_results

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright, of the extra `test`, is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on this machine to open the page in")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"], timeout=180_000
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    models = ("DeSTSeg", "Patchcore", "AModelWithARatherLongNameOfItsOwn")
    return write_report(make_results(tmp_path_factory.mktemp("report"), models, failing=["Patchcore-cable-1"]))


class Opened:
    """The page in a window, with all that it asked for and complained about."""

    def __init__(self, browser: "sync_api.Browser", report: Path, width: int, **options: object) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        self.page.set_default_timeout(180_000)  # machines that run tests are often busy
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(report.as_uri())
        self.page.wait_for_function("document.querySelectorAll('.chart svg[role]').length == 4")

    def unfold(self) -> None:
        """Open what is folded, as a reader does."""
        folded = self.page.locator("details:not([open]) > summary")
        while folded.count():
            folded.first.click()

    def tooltip(self) -> str:
        """What the tooltip says, once one is shown."""
        tooltip = self.page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        return " ".join(tooltip.inner_text().split())

    def plot_point(self, chart: str, x: float, y: float) -> tuple[float, float]:
        """Pixels of a place in the plot of a chart, in shares of its width and height from its lower left corner."""
        svg = self.page.get_by_role("img", name=chart)
        svg.scroll_into_view_if_needed()
        box = svg.locator(".mark-rect.role-frame, g.role-frame > g > .background").first.bounding_box()
        return box["x"] + x * box["width"], box["y"] + (1 - y) * box["height"]

    def column(self, number: int) -> list[str]:
        cells = self.page.locator(f"#sortable tbody tr:visible > :nth-child({number})")
        return cells.all_inner_texts()


@pytest.fixture
def open_page(browser, report) -> Iterator:
    opened = []

    def open_at(width: int = 1280, **options: object) -> Opened:
        opened.append(Opened(browser, report, width, **options))
        return opened[-1]

    yield open_at
    for each in opened:
        each.page.close()


def test_the_page_loads_alone_and_without_complaint(open_page, report) -> None:
    opened = open_page()
    opened.unfold()
    assert [url for url in opened.requests if not url.startswith("data:")] == [report.as_uri()]
    assert opened.complaints == []
    broken = "[...document.images].filter((image) => !image.complete || !image.naturalWidth).length"
    assert opened.page.evaluate(broken) == 0
    assert opened.page.locator("img").count() > 20


def test_a_click_on_a_heading_sorts_and_another_turns_the_order(open_page) -> None:
    opened = open_page()
    heading = opened.page.locator("#sortable th", has_text="IAP@90")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    down = [float(text.split(" ")[0]) for text in opened.column(4)]
    assert down == sorted(down, reverse=True)
    assert down[0] != down[-1]
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [float(text.split(" ")[0]) for text in opened.column(4)] == sorted(down)
    assert opened.page.locator("[aria-sort]").count() == 1


def test_the_keyboard_sorts_by_name_and_only_one_heading_claims_the_order(open_page) -> None:
    opened = open_page()
    opened.page.locator("#sortable th", has_text="IAP@90").get_by_role("button").click()
    button = opened.page.locator("#sortable th", has_text="model").get_by_role("button")
    button.focus()
    opened.page.keyboard.press("Enter")
    names = opened.column(1)
    assert names == sorted(names)
    assert len(set(names)) == 3
    opened.page.keyboard.press("Space")
    assert opened.column(1) == sorted(names, reverse=True)
    assert opened.page.locator("[aria-sort]").all_inner_texts() == [button.inner_text()]


def test_the_choice_of_a_category_hides_the_others(open_page) -> None:
    opened = open_page()
    opened.page.get_by_label("Show").select_option("cable")
    assert set(opened.column(2)) == {"cable"}
    opened.page.get_by_label("Show").select_option("")
    assert set(opened.column(2)) == {"average", "bottle", "cable"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_tables_in_their_boxes_and_never_the_page(open_page, tmp_path, scheme) -> None:
    opened = open_page(360, color_scheme=scheme)
    opened.unfold()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 360
    box = "document.querySelector('#figures .box')"
    assert opened.page.evaluate(f"{box}.scrollWidth > {box}.clientWidth")
    assert len(opened.page.screenshot(path=tmp_path / "phone.png")) > 10_000


def contrast(page: "sync_api.Page", selector: str, part: str = "color") -> float:
    """Contrast of a text or a part of a drawing with the page, as WCAG 2 computes it."""
    return page.evaluate(
        """([selector, part]) => {
        const luminance = (colour) => {
            const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
                .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const paper = luminance(getComputedStyle(document.body).backgroundColor);
        const all = [...document.querySelectorAll(selector)].map((one) => luminance(getComputedStyle(one)[part]));
        return Math.min(...all.map((ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)));
    }""",
        [selector, part],
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_page(open_page, scheme) -> None:
    page = open_page(color_scheme=scheme).page
    assert contrast(page, "p, h2, a, figcaption, td, dt, .lack") >= 4.5
    assert contrast(page, ".chart svg text", "fill") >= 4.5
    marks = ".chart .mark-line path, .chart .role-legend-symbol path, .chart .mark-symbol.marks path[opacity='1']"
    assert page.locator(marks).count() > 20
    assert contrast(page, marks, "stroke") >= 3


def test_everything_that_a_sighted_reader_sees_has_a_name(open_page) -> None:
    page = open_page().page
    assert page.locator("img:not([alt]), img[alt=''], svg:not([aria-label]), html:not([lang])").count() == 0
    assert page.get_by_role("region", name="Figures").count() >= 1
    assert page.get_by_role("img", name="Pixel precision over instance recall on bottle").count() == 1


def test_print_opens_what_is_folded_and_folds_it_again(open_page) -> None:
    page = open_page().page
    folded = page.locator("details:not([open])").count()
    assert folded > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded


CURVES, SPEED = "Pixel precision over instance recall on cable", "Time for one image against IAP"


@pytest.mark.parametrize("width", [1200, 360])
def test_a_table_that_is_wider_than_its_box_says_so(open_page, width) -> None:
    opened = open_page(width)
    opened.unfold()
    boxes = opened.page.locator(".box").evaluate_all(
        "boxes => boxes.map(box => [box.scrollWidth > box.clientWidth, getComputedStyle(box, '::before').content])"
    )
    assert boxes
    assert all(("scroll sideways" in hint) == wider for wider, hint in boxes), boxes
    assert width > 360 or any(wider for wider, _ in boxes)


@pytest.mark.parametrize(
    ("chart", "x", "y", "expected"),
    [
        (CURVES, 0.99, 0.78, "model, IAP DeSTSeg 81.0 instance recall, % 100 pixel precision, % 80"),
        (CURVES, 0.99, 0.42, r"model, IAP AModelWithARatherLongNameOfItsOwn 61.0 instance recall, % 100 .* % 40"),
        (SPEED, 0.05, 0.95, "model DeSTSeg median latency at batch 1, ms 10 IAP, % 86"),
        (SPEED, 0.95, 0.05, r"model AModelWithARatherLongNameOfItsOwn median latency at batch 1, ms 30 IAP, % 66"),
    ],
)
def test_hovering_over_a_chart_and_tapping_it_name_the_nearest_point_and_its_values(
    open_page, chart, x, y, expected
) -> None:
    mouse = open_page()
    mouse.page.mouse.move(*mouse.plot_point(chart, x, y))
    assert re.fullmatch(expected, mouse.tooltip())
    phone = open_page(360, has_touch=True, is_mobile=True)
    phone.page.touchscreen.tap(*phone.plot_point(chart, x, y))
    assert re.fullmatch(expected, phone.tooltip())
    box = phone.page.locator("#vg-tooltip-element").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    assert [*mouse.complaints, *phone.complaints] == []


def test_a_tap_elsewhere_takes_the_tooltip_away(open_page) -> None:
    phone = open_page(360, has_touch=True, is_mobile=True)
    phone.page.touchscreen.tap(*phone.plot_point(CURVES, 0.5, 0.5))
    phone.tooltip()
    phone.page.locator("#curves h2").tap()
    phone.page.locator("#vg-tooltip-element.visible").wait_for(state="detached")


def test_charts_fit_a_phone_and_name_all_models_in_their_legends(open_page) -> None:
    page = open_page(360).page
    for svg in page.locator(".chart svg").all():
        box = svg.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        legend = svg.locator(".role-legend-label text")
        assert legend.count() == 3
        assert "AModelWithARatherLongNameOfItsOwn" in legend.last.text_content()
        sizes = svg.locator("text").evaluate_all(
            "texts => texts.map(text => parseFloat(getComputedStyle(text).fontSize))"
        )
        assert min(sizes) >= 12


def test_lines_and_points_differ_without_colour_and_in_the_order_of_the_models_everywhere(open_page) -> None:
    page = open_page().page
    dashes = [
        svg.locator(".mark-line path").evaluate_all("lines => lines.map(line => line.getAttribute('stroke-dasharray'))")
        for svg in page.locator("#curves svg").all()
    ]
    assert len(set(dashes[0])) == 3
    assert dashes[0] == dashes[1]
    shapes = [
        svg.locator(".role-legend-symbol path").evaluate_all("points => points.map(point => point.getAttribute('d'))")
        for svg in page.locator("#speed svg").all()
    ]
    assert len(set(shapes[0])) == 3
    assert shapes[0] == shapes[1]
    assert (
        len(
            {
                tuple(svg.locator(".role-legend-label text").all_text_contents())
                for svg in page.locator("#speed svg").all()
            }
        )
        == 1
    )
