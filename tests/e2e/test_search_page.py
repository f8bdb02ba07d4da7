"""A person at the search page: the real pipeline behind it, nothing replaced."""

import re
import uuid
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from playwright.sync_api import Dialog, Request, Route, expect

from tests.e2e.conftest import WAIT_MS, Visit

SEARCHABLE = re.compile(r"searchable after \d+(\.\d)? m?s")
GONE = re.compile(r"gone from the index after \d+(\.\d)? m?s")
expect.set_options(timeout=WAIT_MS)


def create(visit: Visit, name: str, description: str, category: str = "", price: str = "") -> None:
    """Add a product through the dialog, and wait until it is searchable."""
    page = visit.page
    page.click("text=New product")
    for field, value in (("name", name), ("description", description), ("category", category), ("price", price)):
        page.fill(f"#create [name={field}]", value)
    page.click("#create .primary")
    expect(page.locator("#create")).to_be_hidden()
    expect(page.locator("#created .row:first-child .say")).to_have_text(SEARCHABLE)


def test_a_row_edited_in_place_is_found_by_its_new_meaning(visit: Visit) -> None:
    page = visit.open("/")
    visit.search("something to keep soup hot until lunch")
    row = page.locator("#results .row").nth(2)
    key = row.get_attribute("data-key")
    row.locator(".open").click()
    editing = page.locator(f"#results .editing[data-key='{key}']")
    editing.locator("[name=name]").fill("Stage sword, blunt")
    editing.locator("[name=description]").fill(
        "Looks deadly under the lights and cannot cut: a rapier of aluminium for duels on the stage."
    )
    editing.locator(".primary").click()
    saved = page.locator(f"#results .row[data-key='{key}']")
    expect(saved.locator(".say")).to_have_text(SEARCHABLE)
    expect(saved.locator("h3")).to_have_text("Stage sword, blunt")
    visit.search("a fake weapon for the theatre")
    assert visit.best() == "Stage sword, blunt"
    scores = [float(text) for text in page.locator("#results .match b").all_inner_texts()]
    assert len(scores) == 20
    assert scores == sorted(scores, reverse=True)
    visit.search("something to keep soup hot until lunch")
    assert page.locator(f"#results .row[data-key='{key}']").count() == 0


def test_a_created_product_is_found_and_a_deleted_one_is_not_until_it_is_undone(visit: Visit) -> None:
    page = visit.open("/")
    name = f"Theremin {uuid.uuid4().hex[:6]}"
    create(visit, name, "Play eerie music in the air without touching the instrument.", "Music", "249.00")
    query = "spooky tunes by waving my hands"
    visit.search(query)
    assert visit.best() == name
    expect(page.locator("#results .row:first-child .price")).to_have_text("$249.00")

    page.locator("#results .row:first-child .open").click()
    page.locator("#results .editing .danger").click()
    page.locator("#results .asking .primary").click()
    expect(page.locator("#results .gone .say")).to_have_text(GONE)
    page.goto(page.url)
    assert visit.best() != name

    create(visit, name, "Play eerie music in the air without touching the instrument.")
    visit.search(query + " please")
    page.locator("#results .row:first-child .open").click()
    page.locator("#results .editing .danger").click()
    page.locator("#results .asking .primary").click()
    page.locator("#results .gone button").click()
    expect(page.locator("#results .row:first-child .say")).to_have_text(SEARCHABLE)
    visit.search(query)
    assert visit.best() == name


def test_a_row_that_loses_its_text_is_not_searchable_and_says_so(visit: Visit) -> None:
    page = visit.open("/")
    name = f"Kaleidoscope {uuid.uuid4().hex[:6]}"
    create(visit, name, "Coloured shards that fall into ever new patterns.")
    page.locator("#created .row:first-child .open").click()
    expect(page.locator("#created .editing [name=name]")).to_be_focused()
    page.fill("#created .editing [name=name]", "")
    page.fill("#created .editing [name=description]", "   ")
    page.click("#created .editing .primary")
    expect(page.locator("#created .row:first-child .say")).to_contain_text("not searchable: no text (gone")


def test_everything_can_be_done_by_keyboard(visit: Visit) -> None:
    page = visit.open("/")
    page.locator("nav a").first.focus()
    keys = page.keyboard
    keys.press("/")
    keys.type("gift for a gardener")
    page.wait_for_selector("#results .row .match")
    expect(page.locator("#results .row .open").first).to_be_visible()
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    keys.press("ArrowUp")
    expect(page.locator("#results .row .open").first).to_be_focused()
    keys.press("Enter")
    expect(page.locator("#results .editing [name=name]")).to_be_focused()
    keys.press("Escape")
    expect(page.locator("#results .row .open").first).to_be_focused()
    keys.press("Enter")
    expect(page.locator("#results .editing [name=name]")).to_be_focused()
    keys.press("End")
    keys.type(" XL")
    keys.press("Control+Enter")
    expect(page.locator("#results .row:first-child h3")).to_contain_text(" XL")
    expect(page.locator("#results .row:first-child .open")).to_be_focused()
    expect(page.locator("#results .row:first-child .say")).to_have_text(SEARCHABLE)
    expect(page.locator("#announce")).to_contain_text("searchable after")
    keys.press("Escape")
    expect(page.locator("#q")).to_be_focused()
    keys.press("Escape")
    expect(page.locator("#q")).to_have_value("")
    expect(page.locator(".landing")).to_be_visible()


def test_more_results_go_on_where_the_page_ended(visit: Visit) -> None:
    page = visit.open("/")
    visit.search("for the kitchen")
    page.click(".more button")
    expect(page.locator("#results .rank")).to_have_text([str(rank) for rank in range(1, 41)])
    expect(page.locator("#results .row .open").nth(20)).to_be_focused()
    scores = [float(text) for text in page.locator("#results .match b").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)


def test_letters_typed_quickly_make_one_search_for_the_whole_word(visit: Visit) -> None:
    """The page's clock is in our hands, so that a slow machine is no slow typist."""
    page, asked = visit.page, list[str]()

    def note(request: Request) -> None:
        if urlsplit(request.url).path == "/results":
            asked.extend(parse_qs(urlsplit(request.url).query)["q"])

    def type_letters(letters: str, apart_ms: int) -> None:
        for letter in letters:
            page.clock.run_for(apart_ms)
            page.keyboard.press(letter)

    page.on("request", note)
    page.clock.install(time=datetime(2026, 1, 1, tzinfo=UTC))
    visit.open("/")
    page.clock.pause_at(datetime(2026, 1, 2, tzinfo=UTC))
    page.focus("#q")
    type_letters("thermometer", 100)
    assert page.input_value("#q") == "thermometer"
    page.clock.resume()
    expect(page.locator("#results .row .match").first).to_be_visible()
    assert asked == ["thermometer"]

    page.clock.pause_at(datetime(2026, 1, 3, tzinfo=UTC))
    type_letters("sx", 200)
    page.clock.resume()
    expect(page).to_have_url(re.compile("q=thermometersx"))
    assert asked[1:] == ["thermometers", "thermometersx"], "who stops for longer than that is answered"


def test_an_answer_that_comes_late_does_not_replace_a_newer_one(visit: Visit) -> None:
    page = visit.open("/")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(re.compile(r"/results\?q=first"), hold)
    page.fill("#q", "first question about beds")
    page.wait_for_selector("#results.htmx-request")
    visit.search("second question about garden tools")
    newer = visit.best()
    assert len(held) == 1
    held[0].continue_()
    visit.page.wait_for_load_state("networkidle")
    assert visit.best() == newer
    assert "second" in page.url


def test_a_click_on_an_example_searches_for_it(visit: Visit) -> None:
    page = visit.open("/")
    example = page.locator(".examples a").first
    text = example.inner_text()
    example.click()
    expect(page.locator("#results .row .match").first).to_be_visible()
    expect(page.locator("#q")).to_have_value(text)
    page.reload()
    expect(page.locator("#q")).to_have_value(text)
    expect(page.locator("#results .row .match").first).to_be_visible()


def test_a_product_named_like_a_script_is_shown_as_text(visit: Visit) -> None:
    page = visit.open("/")
    ran: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        ran.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    name = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    create(visit, name, '"><svg onload=alert(3)>')
    visit.search("alert script")
    assert name in page.locator("#results h3").all_inner_texts()
    page.locator("#results .row", has_text=name).locator(".open").click()
    expect(page.locator("#results .editing [name=name]")).to_have_value(name)
    assert not ran


@pytest.mark.parametrize("visit", [(360, 740)], indirect=True)
def test_a_phone_never_scrolls_sideways(visit: Visit) -> None:
    def fits() -> bool:
        return bool(visit.page.evaluate("document.documentElement.scrollWidth <= 360"))

    page = visit.open("/")
    assert fits()
    visit.search("a warm drink")
    assert fits()
    page.locator("#results .row:first-child .open").click()
    page.wait_for_selector("#results .editing")
    assert fits()
    page.click("#results .editing .cancel")
    create(visit, "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft", "w" * 300)
    assert fits()
    for path in ("/status", "/docs", "/?q=" + "word+" * 60):
        visit.open(path)
        page.wait_for_load_state("networkidle")
        assert fits(), path


def test_nothing_jumps_while_the_page_loads(visit: Visit) -> None:
    page = visit.page
    page.add_init_script(
        "window.shifted = 0; new PerformanceObserver(list => list.getEntries().forEach(e => window.shifted += e.value))"
        ".observe({type: 'layout-shift', buffered: true})"
    )
    for path in ("/", "/?q=warm+drink", "/status"):
        visit.open(path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.shifted") < 0.01, path


def test_the_status_page_follows_the_pipeline_without_a_reload(visit: Visit, stack: dict[str, str]) -> None:
    page = visit.open("/status")
    expect(page.locator(".verdict h2")).to_have_text("In step")
    expect(page.locator(".trouble")).to_have_count(0)
    tile = page.locator(".flow .tile").last.locator("b")
    before = int(tile.inner_text().replace(",", ""))
    with psycopg.connect(stack["postgres_dsn"], autocommit=True) as connection:
        connection.execute("INSERT INTO products (sku, name) VALUES (%s, 'Zither')", [uuid.uuid4().hex])
    expect(tile).to_have_text(f"{before + 1:,}")
    expect(page.locator(".verdict h2")).to_have_text("In step")


def test_the_api_page_lists_the_operations(visit: Visit) -> None:
    page = visit.open("/docs")
    expect(page.locator(".opblock")).to_have_count(11)


# Runs before any script of a page: keeps what the content security policy has stopped.
KEEP_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile ?? ""}`);
});
"""


def test_no_page_needs_what_the_content_security_policy_forbids(visit: Visit) -> None:
    visit.page.add_init_script(KEEP_VIOLATIONS)
    found = []
    for path in ("/", "/?q=a+lamp+to+read+by&mode=hybrid", "/products/1", "/status", "/nowhere"):
        page = visit.open(path)
        page.wait_for_load_state("networkidle") if path != "/status" else page.wait_for_selector("#panel")
        found += [(path, violation) for violation in page.evaluate("window.violations")]
    page = visit.open("/docs")
    page.locator(".opblock-summary", has_text="/api/search").first.click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_placeholder("q", exact=True).fill("tea")
    page.get_by_role("button", name="Execute").click()
    expect(page.locator(".live-responses-table td.response-col_status:not(.col_header)").first).to_contain_text("200")
    found += [("/docs", violation) for violation in page.evaluate("window.violations")]
    visit.console[:] = [line for line in visit.console if "404" not in line]  # the page that is not there
    assert not found


def test_a_script_or_style_in_a_page_does_not_run(visit: Visit) -> None:
    """What stands between a row's text and the reader if a template ever forgot to escape it."""
    visit.page.add_init_script(KEEP_VIOLATIONS)
    page = visit.open("/")
    page.evaluate(
        "document.body.insertAdjacentHTML('beforeend', '<img src=\"data:,x\" onerror=\"window.ran = true\">'"
        " + '<p style=\"color: red\">x</p>');"
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = true'}))"
    )
    page.wait_for_function("window.violations.length >= 3")
    assert page.evaluate("window.ran") is None
    assert {violation.split()[0] for violation in page.evaluate("window.violations")} == {
        "script-src-attr", "script-src-elem", "style-src-attr",
    }  # fmt: skip
    assert visit.console, "the browser says so too"
    visit.console.clear()
