"""The pages and the parts that HTMX asks for."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import frontend
from tests.services.frontend.html import Page
from tests.services.frontend.site import Site

PART = {"HX-Request": "true", "Sec-Fetch-Site": "same-origin"}
EVIL = "<script>alert('1')</script>\"'><img src=x onerror=alert(2)>"


def form(site: Site, method: str, path: str, **fields: str) -> httpx.Response:
    return site.client.request(method, path, data=fields, headers=PART)


def edit(site: Site, product: int) -> dict[str, str]:
    """The fields of the row's form, as a browser would send them back."""
    page = Page(site.client.get(f"/products/{product}/edit", headers=PART))
    fields = {e.attributes["name"]: e.attributes["value"] for e in page.all("input", name="")}
    # The first line end in a textarea belongs to its tag, and a browser sends the others as CR LF.
    text = "".join(page.all("textarea")[0].text).removeprefix("\n")
    return fields | {"description": text.replace("\n", "\r\n")}


def row(site: Site, product: int) -> dict[str, Any]:
    found = site.database.execute("SELECT * FROM products WHERE id = %s", [product]).fetchone()
    assert found is not None
    return found


def test_the_search_page_shows_rows_in_rank_order_with_score_category_and_price(site: Site) -> None:
    site.insert("hot soup", "in a flask", category="Kitchen", price="1234.5")
    site.insert("cold drink", "in a flask")
    site.index_rows()
    page = Page(site.client.get("/", params={"q": "hot soup flask"}))
    assert page.texts("a", class_="open") == ["hot soup", "cold drink"]
    assert page.texts("span", class_="rank") == ["1", "2"]
    scores = [float(text) for text in page.texts("b")]
    assert scores == sorted(scores, reverse=True)
    widths = [float(element.attributes["width"]) for element in page.all("rect", class_="fill")]
    assert widths == pytest.approx([100 * score for score in scores], abs=1)
    assert page.texts("span", class_="price") == ["$1,234.50"]
    assert "Kitchen" in page.texts("span", title="category")
    assert page.all("input", name="q")[0].attributes["value"] == "hot soup flask"


def test_text_from_a_row_or_a_query_is_shown_and_never_run(site: Site) -> None:
    product = site.insert(EVIL, EVIL, category=EVIL[:100])
    site.index_rows()
    parts = [
        site.client.get("/", params={"q": EVIL, "category": EVIL[:100]}),
        site.client.get("/results", params={"q": EVIL}),
        site.client.get("/"),
        site.client.get(f"/products/{product}"),
        site.client.get(f"/products/{product}/row"),
        site.client.get(f"/products/{product}/edit"),
        site.client.get(f"/products/{product}/delete"),
        form(site, "PATCH", f"/products/{product}", name=EVIL, price="x"),
        form(site, "DELETE", f"/products/{product}"),
    ]
    for answer in parts:
        page = Page(answer)
        assert not page.all("img"), answer.text
        assert all("src" in script.attributes for script in page.all("script")), answer.text
        assert "alert('1')" not in answer.text, "the quotes are escaped wherever it stands"
        assert "alert(&#39;1&#39;)" in answer.text


def test_no_page_has_inline_code_or_style_or_asks_another_host(site: Site) -> None:
    product = site.insert("soup", category="Kitchen", price="3")
    site.index_rows()
    for path in ("/", "/?q=soup", f"/products/{product}", "/status", "/docs", "/nowhere", "/?q=" + "x" * 3_000):
        answer = site.client.get(path)
        page = Page(answer)
        assert not page.all("style"), path
        for element in page.elements:
            assert "style" not in element.attributes, (path, element)
            assert not [name for name in element.attributes if name.startswith(("on", "hx-on"))], (path, element)
            assert element.tag != "script" or element.attributes["src"], path
            for name in ("src", "href", "action", "hx-get", "hx-post"):
                assert re.match(r"(/(?!/)|\?|#|$)", element.attributes.get(name, "")), (path, element)
    folder = Path(frontend.__file__).with_name("static")
    for path_ in (folder / "aviary.css", folder / "aviary.js", folder / "docs.js"):
        assert "//" not in re.sub(r"^\s*//.*$| // .*$|http://www.w3.org/", "", path_.read_text(), flags=re.MULTILINE)


def test_every_file_a_page_names_is_served_for_ever_and_the_vendored_ones_have_a_licence(site: Site) -> None:
    for path in ("/", "/docs"):
        page = Page(site.client.get(path))
        named = [e.attributes["href"] for e in page.all("link")] + [e.attributes["src"] for e in page.all("script")]
        assert named
        for address in named:
            answer = site.client.get(address)
            assert answer.status_code == 200, address
            assert "immutable" in answer.headers["Cache-Control"]
            stale = site.client.get(re.sub(r"/static/\w+/", "/static/0123456789ab/", address))
            assert stale.headers["Cache-Control"] == "no-cache"
    vendored = Path(frontend.__file__).with_name("static") / "vendor"
    assert all((folder / "LICENSE").is_file() for folder in vendored.iterdir())
    for path in ("/static/../settings.py", "/static/x/..%2f..%2fsettings.py", "/static/", "/static/x"):
        assert site.client.get(path).status_code == 404


def test_typing_gets_only_the_results_and_the_address_to_keep(site: Site) -> None:
    site.insert("hot soup")
    site.index_rows()
    answer = site.client.get("/results", params={"q": "hot soup", "category": "", "min_price": "", "mode": "semantic"})
    assert "<html" not in answer.text
    assert answer.headers["HX-Replace-Url"] == "/?q=hot+soup"
    assert site.client.get("/results", params={"q": ""}).headers["HX-Replace-Url"] == "/"


def test_more_results_continue_the_list(site: Site) -> None:
    for number in range(25):
        site.insert(f"soup number{number}")
    site.index_rows()
    first = Page(site.client.get("/results", params={"q": "soup", "mode": "semantic"}))
    assert first.texts("span", class_="rank") == [str(rank) for rank in range(1, 21)]
    more = first.all("button", hx_get="")[-1].attributes["hx-get"]
    second = site.client.get(more)
    assert Page(second).texts("span", class_="rank") == [str(rank) for rank in range(21, 26)]
    assert "More results" not in second.text
    assert "HX-Replace-Url" not in second.headers


def test_empty_states_say_what_to_do(site: Site) -> None:
    landing = site.client.get("/").text
    assert "something to keep soup hot until lunch" in landing
    assert "The table is empty" in landing
    assert "Nothing is indexed yet" in site.client.get("/results", params={"q": "soup"}).text
    site.insert("soup", price="5")
    site.index_rows()
    filtered = site.client.get("/results", params={"q": "soup", "min_price": "100"}).text
    assert "Nothing with these filters" in filtered
    assert 'href="/?q=soup"' in filtered
    assert "Nothing is close to that" in site.client.get("/results", params={"q": "unrelated words"}).text


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"q": "x" * 10_000}, "at most 2,000 characters, and this has 10,000"),
        ({"q": "a", "min_price": "9", "max_price": "1"}, "must not be greater than"),
        ({"q": "a", "min_price": "cheap"}, "The lowest price"),
        ({"q": "a", "source": "nowhere"}, "no table is watched"),
    ],
)
def test_a_query_that_breaks_a_rule_is_answered_in_the_page(site: Site, parameters: dict[str, str], words: str) -> None:
    for path in ("/", "/results"):
        answer = site.client.get(path, params=parameters)
        assert answer.status_code in (404, 422)
        assert words in answer.text


def test_a_row_is_edited_in_place_and_says_where_to_look_for_its_arrival(site: Site) -> None:
    product = site.insert("Lamp", "one\ntwo\n", category="Home", price="5.00")
    fields = edit(site, product)
    answer = form(site, "PATCH", f"/products/{product}", **fields | {"name": "Telescope", "price": "7.5"})
    assert answer.status_code == 200
    page = Page(answer)
    assert page.texts("a", class_="open") == ["Telescope"]
    watch = page.all("p", class_="sync")[0].attributes["data-watch"]
    assert watch.startswith(f"/api/products/{product}/indexed?since=")
    saved = row(site, product)
    assert (saved["name"], str(saved["price"]), saved["description"]) == ("Telescope", "7.50", "one\ntwo\n")


def test_saving_writes_only_what_was_changed(site: Site) -> None:
    product = site.insert("Lamp", "with\r\nCR LF\rand more ", category=None, price=None)
    fields = edit(site, product)
    before = row(site, product)
    answer = form(site, "PATCH", f"/products/{product}", **fields)
    assert "nothing has changed" in answer.text
    assert row(site, product) == before
    site.client.patch(f"/api/products/{product}", json={"attributes": {"kept": 1}})
    form(site, "PATCH", f"/products/{product}", **edit(site, product) | {"price": "3"})
    after = row(site, product)
    assert (after["description"], after["category"], str(after["price"])) == (before["description"], None, "3.00")
    assert after["attributes"] == {"kept": 1}


def test_an_edit_that_concerns_nothing_searched_is_not_waited_for(site: Site) -> None:
    product = site.insert("", "", price="3")
    page = Page(form(site, "PATCH", f"/products/{product}", **edit(site, product) | {"price": "4"}))
    assert "data-watch" not in page.all("p", class_="sync")[0].attributes
    assert page.texts("span", class_="say") == ["nothing that is searched has changed"]


def test_a_form_with_a_mistake_comes_back_with_what_was_typed_and_the_reason(site: Site) -> None:
    product = site.insert("Lamp")
    answer = form(site, "PATCH", f"/products/{product}", **edit(site, product) | {"name": "New name", "price": "-5"})
    assert answer.status_code == 422
    page = Page(answer)
    assert page.all("input", name="name")[0].attributes["value"] == "New name"
    price = page.all("input", name="price")[0].attributes
    assert price["aria-invalid"] == "true"
    assert page.texts("p", id=price["aria-describedby"]) == ["must be 0 or more"]
    assert row(site, product)["name"] == "Lamp"


def test_someone_elses_change_is_not_overwritten_in_silence(site: Site) -> None:
    product = site.insert("Lamp")
    fields = edit(site, product)
    site.database.execute("UPDATE products SET price = 9 WHERE id = %s", [product])
    answer = form(site, "PATCH", f"/products/{product}", **fields | {"name": "Mine"})
    assert answer.status_code == 412
    assert "changed by someone else" in answer.text
    assert row(site, product)["name"] == "Lamp"


def test_a_product_is_created_in_the_page(site: Site) -> None:
    fields = {"name": "Tin whistle", "description": "in D\r\nfor tunes", "category": "Music", "price": "12.50"}
    answer = form(site, "POST", "/products", **fields)
    assert answer.status_code == 200
    page = Page(answer)
    assert page.texts("a", class_="open") == ["Tin whistle"]
    assert page.all("ol", hx_swap_oob="afterbegin:#created")
    assert page.all("input", name="name")[0].attributes["value"] == "", "the form is ready for the next one"
    created = site.database.execute("SELECT * FROM products").fetchall()
    assert [(r["name"], r["description"], str(r["price"])) for r in created] == [
        ("Tin whistle", "in D\nfor tunes", "12.50")
    ]
    assert form(site, "POST", "/products", name="x" * 501).status_code == 422


def test_a_deletion_can_be_undone_with_everything_the_row_had(site: Site) -> None:
    created = site.client.post(
        "/api/products",
        json={
            "sku": "U-1",
            "name": "Lamp",
            "description": "a\nb",
            "category": "Home",
            "price": 5,
            "attributes": {"ü": [1]},
        },
    ).json()
    question = site.client.get(f"/products/{created['id']}/delete", headers=PART).text
    assert "You can undo it right after" in question
    answer = form(site, "DELETE", f"/products/{created['id']}")
    page = Page(answer)
    assert site.database.execute("SELECT id FROM products").fetchall() == []
    assert page.all("p", class_="sync")[0].attributes["data-watch"]
    fields = {e.attributes["name"]: e.attributes["value"] for e in page.all("input", name="")}
    fields["description"] = "".join(page.all("textarea")[0].text).removeprefix("\n").replace("\n", "\r\n")
    assert "Restored" in form(site, "POST", "/products/restore", **fields).text
    restored = site.database.execute("SELECT * FROM products").fetchall()
    kept = ("sku", "name", "description", "category", "price", "attributes")
    assert [{name: found[name] for name in kept} for found in restored] == [
        {name: created[name] for name in kept[:4]} | {"price": 5, "attributes": {"ü": [1]}}
    ]


def test_a_row_keeps_its_rank_through_opening_and_closing_it(site: Site) -> None:
    product = site.insert("Lamp")
    opened = Page(site.client.get(f"/products/{product}/edit?rank=3&score=0.5"))
    cancel = opened.all("button", class_="cancel")[0].attributes["hx-get"]
    closed = Page(site.client.get(cancel))
    assert closed.texts("span", class_="rank") == ["3"]
    assert closed.texts("b") == ["0.50"]
    assert Page(site.client.get(f"/products/{product}/row?rank=x&score=9")).texts("span", class_="rank") == [""]


def test_a_row_that_is_gone_is_told_beside_the_form_and_as_a_page(site: Site) -> None:
    part = site.client.get("/products/1/edit", headers=PART)
    assert part.status_code == 404
    assert part.headers["HX-Retarget"] == "#notice"
    page = site.client.get("/products/1")
    assert page.status_code == 404
    assert "there is no product 1" in page.text
    assert page.headers["X-Request-Id"] in page.text


def test_the_api_page_describes_every_route(site: Site) -> None:
    assert "swagger-ui-bundle.js" in site.client.get("/docs").text
    document = site.client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/api/search",
        "/api/products",
        "/api/products/{id}",
        "/api/products/{id}/indexed",
        "/api/status",
        "/api/dead-letters",
        "/healthz",
        "/readyz",
    }
    assert "HTTPValidationError" not in document["components"]["schemas"], "errors are described as they are sent"


def test_a_text_can_be_emptied_in_the_form(site: Site) -> None:
    product = site.insert("Lamp", "Light")
    page = Page(form(site, "PATCH", f"/products/{product}", **edit(site, product) | {"name": "", "description": "  "}))
    assert (row(site, product)["name"], row(site, product)["description"]) == ("", "  ")
    assert page.all("p", class_="sync")[0].attributes["data-watch"]
