"""The report page in headless Chromium: it loads alone, its parts work by mouse and keyboard, at any width, in the dark
and on paper. `BNFOLD_CHROMIUM` names the browser; `BNFOLD_AXE` an axe.min.js (`npm pack axe-core`) to check access by."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bnfold_cli.main import run
from tests.report_models import hostile, wide
from tests.test_cli import written

CHROMIUM = os.environ.get("BNFOLD_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium, or BNFOLD_CHROMIUM=PATH"),
]
WIDTHS = (390, 1280, 2560)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Where the pages of two folds are: one of 49 that fold and one that stays, one with hostile names."""
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, model in (("wide", wide(50)), ("hostile", hostile())):
            written(folder / f"{name}.onnx", model)
            assert run(["fold", f"{name}.onnx", "--verify", "full", "--report", f"{name}.html"]) == 0
    return folder


@pytest.fixture
def open_page(browser, pages):
    """Opens a page; what it says on the console, and whatever it asks the network for, is an error in the end."""
    contexts, wrong = [], []

    def heard(request):
        if not request.url.startswith(("file:", "blob:", "data:")):
            wrong.append(request.url)

    def open_page(name="wide", width=1280, height=900, **options):
        screen = {"viewport": {"width": width, "height": height}, "reduced_motion": "reduce"}
        context = browser.new_context(**screen, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", heard)
        page.goto(f"{Path(pages, name).as_uri()}.html")
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def column(page, number):
    return page.locator(f"#results tbody tr:not([hidden]) > :nth-child({number})").all_inner_texts()


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_at_any_width(open_page, width):
    page = open_page(width=width, color_scheme="light")
    assert_fits(page, "light")
    ink = page.evaluate("bn.cy.nodes()[1].style('color')")
    page.emulate_media(color_scheme="dark")
    assert_fits(page, "dark")
    assert page.evaluate("bn.cy.nodes()[1].style('color')") != ink


def assert_fits(page, scheme):
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert (
        page.locator("h1")
        .inner_text()
        .startswith("PASS, proved 49 of 50 BatchNormalization nodes are folded, 1 is kept")
    )
    for name in ("#graph", "#sites svg", "#ratios svg", "#channels svg", "#factors svg", "#variances svg", "#results"):
        box = page.locator(name).first.bounding_box()
        assert box["width"] > 200, name
        assert box["height"] > 100, name
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == (scheme == "dark")


def test_the_table_is_searched_and_sorted(open_page):
    page = open_page()
    assert len(column(page, 2)) == 50
    page.fill("#filter", "block4")
    assert len(column(page, 2)) == 11
    assert page.locator("#count").inner_text() == "11 of 50 nodes"
    page.fill("#filter", "nonlinear")
    assert column(page, 2) == ["block49/norm"]
    page.fill("#filter", "nothing at all")
    assert column(page, 2) == []
    page.fill("#filter", "")
    page.select_option("#result", "kept")
    assert column(page, 2) == ["block49/norm"]
    page.select_option("#result", "")
    page.click("#results thead th:nth-child(2) button")
    names = [f"block{i}/norm" for i in range(50)]
    assert column(page, 2) == names
    page.click("#results thead th:nth-child(2) button")
    assert column(page, 2) == names[::-1]
    assert page.locator("#results thead th:nth-child(2)").get_attribute("aria-sort") == "descending"
    page.focus("#results thead th:nth-child(6) button")
    page.keyboard.press("Enter")
    ratios = [float(text or -1) for text in column(page, 6)]
    assert ratios == sorted(ratios)
    assert ratios[1] > 0


def test_details_open_by_click(open_page):
    page = open_page()
    page.click("#results tbody tr:has-text('block49/norm') td:nth-child(3)")
    details = page.locator("#details").inner_text()
    assert "BatchNormalization" in details
    assert "Relu 'block49/early' is not linear: a scale may cross it, but no shift" in details
    assert "NONLINEAR" in details
    page.click(".strip [data-entry='3']")
    details = page.locator("#details").inner_text()
    assert "block3/norm" in details
    assert "Its constants are now in\nConv block3/conv" in details
    assert "times what rounding explains; limit 8" in details
    assert page.locator("#results tr.chosen").inner_text().split()[1] == "block3/norm"
    page.evaluate("async () => { while (bn.cy.animated()) await new Promise(requestAnimationFrame); }")
    where = page.evaluate("(() => { const p = bn.cy.$id('n5').renderedPosition(); return [p.x, p.y]; })()")
    box = page.locator("#graph").bounding_box()
    page.mouse.click(box["x"] + where[0], box["y"] + where[1])
    node = page.evaluate("bn.data.graphs.before.nodes[5]")
    assert node["name"] in page.locator("#details").inner_text()


def test_details_open_by_keyboard(open_page):
    page = open_page()
    page.focus("#graph")
    page.keyboard.press("n")
    assert "block0/norm" in page.locator("#details").inner_text()
    page.keyboard.press("n")
    assert "block1/norm" in page.locator("#details").inner_text()
    page.keyboard.press("p")
    page.keyboard.press("ArrowUp")
    assert "block0/conv" in page.locator("#details").inner_text()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert "block0/relu" in page.locator("#details").inner_text()
    page.focus(".strip [data-entry='0']")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert "block1/norm" in page.locator("#details").inner_text()
    page.focus("#results tbody tr:nth-child(5) a")
    page.keyboard.press("Enter")
    assert "block4/norm" in page.locator("#details").inner_text()


def test_before_and_after(open_page):
    page = open_page()
    page.click(".strip [data-entry='2']")
    count = "bn.cy.nodes().length"
    before = page.evaluate(count)
    page.click("button:text-is('After')")
    page.wait_for_selector("button[data-graph='after'][aria-pressed='true']")
    assert page.evaluate(count) == before - 49
    page.wait_for_selector("#details:has-text('Holds the constants of')")  # the choice moves to where the node went
    assert "block2/conv" in page.locator("#details").inner_text()
    page.click("#details button:has-text('block2/norm')")
    page.wait_for_selector("button[data-graph='before'][aria-pressed='true']")
    assert page.evaluate(count) == before


def test_the_graph_is_zoomed_and_searched(open_page):
    page = open_page()
    zoom = page.evaluate("bn.cy.zoom()")
    page.click("#zoom-in")
    assert page.evaluate("bn.cy.zoom()") > zoom
    page.focus("#graph")
    page.keyboard.press("-")
    page.keyboard.press("-")
    assert page.evaluate("bn.cy.zoom()") < zoom * 1.35
    page.click("#fit")
    assert page.evaluate("bn.cy.zoom()") == pytest.approx(zoom)
    where, pan = page.evaluate("[bn.cy.$id('n9').renderedPosition(), bn.cy.pan()]")
    box = page.locator("#graph").bounding_box()
    page.mouse.move(box["x"] + where["x"], box["y"] + where["y"])  # on a node, as anywhere
    page.mouse.down()
    page.mouse.move(box["x"] + where["x"] + 60, box["y"] + where["y"] + 40, steps=5)
    page.mouse.up()
    assert page.evaluate("bn.cy.pan().x") == pytest.approx(pan["x"] + 60, abs=12)
    page.click("#fit")
    page.fill("#find", "block17/")
    assert page.locator("#matches").inner_text() == "4 found"
    page.press("#find", "Enter")
    assert page.locator("#matches").inner_text() == "1 of 4"
    assert "block17/conv" in page.locator("#details").inner_text()
    assert page.evaluate("bn.cy.nodes('.dim').length") == page.evaluate("bn.cy.nodes().length") - 4


def test_no_two_nodes_lie_on_each_other(open_page):
    page = open_page()
    for key in ("before", "after"):
        page.click(f"button[data-graph='{key}']")
        page.wait_for_selector(f"button[data-graph='{key}'][aria-pressed='true']")
        places = page.evaluate("bn.cy.nodes().map((n) => [n.position().x, n.position().y])")
        places.sort()
        close = [
            (a, b)
            for i, a in enumerate(places)
            for b in places[i + 1 : i + 60]
            if abs(a[0] - b[0]) < 120 and abs(a[1] - b[1]) < 28
        ]
        assert close == []


def test_a_site_shows_its_channels(open_page):
    page = open_page()
    page.click(".strip [data-entry='7']")
    page.click("#details a:text-is('Channel by channel')")
    assert page.locator("#site").input_value() == page.evaluate("bn.sitesOf(bn.data.nodes[7])[0].name")
    assert "Each of the 4 channels" in page.locator("#channels").inner_text()


def test_the_data_can_be_downloaded(open_page, tmp_path):
    page = open_page()
    with page.expect_download() as waiting:
        page.click("#download")
    waiting.value.save_as(tmp_path / "data.json")
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["schema"] == "bnfold.report/1"
    assert data["after"]["batch_normalizations"] == 1


def test_hostile_names_do_nothing(open_page):
    page = open_page("hostile")
    title = page.title()
    assert title == "hostile.onnx: PASS, proved"
    elements = "document.querySelectorAll('img, iframe, object, [onerror], [onmouseover]').length"
    for number in range(8):
        page.click(f".strip [data-entry='{number}']")
        page.mouse.move(200, 200 + number)
        assert page.evaluate(elements) == 0
    page.fill("#filter", "</script>")
    assert len(column(page, 2)) == 1
    page.fill("#find", "שלום")
    assert page.locator("#matches").inner_text() == "4 found"
    page.hover("#results tbody tr a")
    assert page.title() == title
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, width


def test_it_is_printed(open_page):
    """On paper, also from the dark: light, with all rows, the whole network as a picture, and nothing to click."""
    page = open_page(color_scheme="dark")
    page.click(".strip [data-entry='49']")
    page.emulate_media(media="print")
    page.wait_for_selector("#still")
    for name in ("nav", "#graph", ".tools >> nth=0", "#download"):
        assert not page.locator(name).is_visible(), name
    assert page.locator("#still").is_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink')").strip() == "#1b1f24"
    frame = page.locator("#nodes .scroll")
    assert frame.evaluate("e => e.scrollHeight - e.clientHeight") <= 2
    corner = page.evaluate("[...document.getElementById('still').getContext('2d').getImageData(1, 1, 1, 1).data]")
    assert corner == [255, 255, 255, 255]
    assert page.pdf().startswith(b"%PDF")


def test_without_scripts_the_facts_are_there(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{Path(pages, 'wide').as_uri()}.html")
    assert "49 of 50 BatchNormalization nodes are folded" in page.locator("h1").inner_text()
    assert page.locator("#results tbody tr").count() == 50
    assert "all tables are here without" in page.locator("noscript").inner_text()
    context.close()


def test_a_reader_of_screens_finds_its_way(open_page):
    """Names for everything that can be used, one h1, no id twice."""
    page = open_page()
    bare = """[...document.querySelectorAll('button, input, select, a[href], [role=application], svg[role=img]')].filter((e) =>
      !(e.getAttribute('aria-label') || e.textContent.trim() || e.title || (e.labels && e.labels.length))).map((e) => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(bare) == []
    assert page.locator("h1").count() == 1
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    tables = page.evaluate("[...document.querySelectorAll('main table')].filter((t) => !t.caption).length")
    assert tables == 0


@pytest.mark.skipif("BNFOLD_AXE" not in os.environ, reason="BNFOLD_AXE names no axe.min.js (npm pack axe-core)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(open_page, scheme, width):
    page = open_page(color_scheme=scheme, width=width, bypass_csp=True)
    page.click(".strip [data-entry='3']")
    page.evaluate(Path(os.environ["BNFOLD_AXE"]).read_text() + "; 0")
    found = page.evaluate("axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'best-practice'] })")
    assert [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found["violations"]] == []
