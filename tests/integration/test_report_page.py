# Copyright (C) 2026 destseg-anomalib contributors
# SPDX-License-Identifier: Apache-2.0

"""The benchmark's page in a browser."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from destseg_anomalib.report.report import write_report

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "benchmark"))
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

    def __init__(self, browser: "sync_api.Browser", report: Path, width: int, **options: str) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 800}, **options)
        self.page.set_default_timeout(180_000)  # machines that run tests are often busy
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(report.as_uri())

    def unfold(self) -> None:
        """Open what is folded, as a reader does."""
        folded = self.page.locator("details:not([open]) > summary")
        while folded.count():
            folded.first.click()

    def column(self, number: int) -> list[str]:
        cells = self.page.locator(f"#sortable tbody tr:visible > :nth-child({number})")
        return cells.all_inner_texts()


@pytest.fixture
def open_page(browser, report) -> Iterator:
    opened = []

    def open_at(width: int = 1280, **options: str) -> Opened:
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


def contrast(page: "sync_api.Page", selector: str) -> float:
    """Contrast of a text with the page, as WCAG 2 computes it."""
    return page.evaluate(
        """(selector) => {
        const luminance = (colour) => {
            const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
                .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
            return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
        };
        const paper = luminance(getComputedStyle(document.body).backgroundColor);
        const all = [...document.querySelectorAll(selector)].map((one) => luminance(getComputedStyle(one).color));
        return Math.min(...all.map((ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)));
    }""",
        selector,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_page(open_page, scheme) -> None:
    page = open_page(color_scheme=scheme).page
    assert contrast(page, "p, h2, a, figcaption, td, dt, .lack") >= 4.5
    assert contrast(page, "svg g[class^=c]") >= 3


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
