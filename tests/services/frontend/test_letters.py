"""Dead letters on the status page, and what is told of them."""

from typing import Any

from aviary.index import PineconeIndex
from tests.services.frontend.conftest import settings
from tests.services.frontend.html import Page
from tests.services.frontend.site import Server, Site, WordEmbedder, until

PUT = """
INSERT INTO sync.dead_letter (id, kind, reason, source, namespace, index_host, keys, versions, failed_at)
VALUES (%s, 'row', %s, 'products', 'products', %s, %s, %s, now() - make_interval(secs => %s))"""


def put(site: Site, name: str, keys: list[str], versions: list[int], *, age: int = 60, host: str = "") -> None:
    site.database.execute(PUT, [name, f"why {name}", host, keys, versions, age])


def told(site: Site) -> dict[str, dict[str, Any]]:
    """What the API says, asked anew."""
    site.server.services.letters.forget()
    answer = site.client.get("/api/dead-letters")
    assert answer.status_code == 200, answer.text
    return {letter["id"]: letter for letter in answer.json()}


def test_a_letter_is_void_when_a_later_state_is_in_the_index_or_nothing_is_left_of_the_row(site: Site) -> None:
    one, two, blank = site.insert("one"), site.insert("two"), site.insert(" ")
    site.index_rows()
    stored = site.index.fetch("products", [str(one)])[str(one)].metadata["_version"]
    assert isinstance(stored, int | float)
    lost = site.insert("not in the index")
    put(site, "overtaken", [str(one)], [int(stored)])
    put(site, "ahead", [str(one)], [int(stored) + 1])
    put(site, "unknown version", [str(one)], [0])
    put(site, "gone", ["999999"], [5])
    put(site, "blank", [str(blank)], [5])
    put(site, "lost", [str(lost)], [5])
    put(site, "many", [str(two), "999999"], [1, 5])
    put(site, "many, one lost", [str(two), str(lost)], [1, 5])
    put(site, "unreadable", [], [])
    put(site, "elsewhere", [str(one)], [int(stored)], host="http://127.0.0.1:9")
    letters = told(site)
    assert {name: letter["void"] for name, letter in letters.items()} == {
        "overtaken": True,
        "ahead": False,
        "unknown version": False,
        "gone": True,
        "blank": True,
        "lost": False,
        "many": True,
        "many, one lost": False,
        "unreadable": None,
        "elsewhere": None,
    }
    assert (letters["many"]["key"], letters["many"]["version"], letters["many"]["rows"]) == (None, None, 2)
    assert (letters["gone"]["key"], letters["gone"]["version"], letters["gone"]["rows"]) == ("999999", 5, 1)


def test_the_page_shows_the_newest_letters_and_how_many_it_shows(site: Site) -> None:
    assert Page(site.client.get("/status")).texts("caption") == ["Watched tables"]
    for number in range(60):
        put(site, f"{number:08}-x", [str(number)], [number + 1], age=3_600 * (number + 1))
    site.database.execute("UPDATE sync.dead_letter SET reason = '<b>bold</b>' WHERE id LIKE '00000000%'")
    letters = told(site)
    assert list(letters) == [f"{number:08}-x" for number in range(50)]
    panel = site.client.get("/status/panel")
    page = Page(panel)
    assert "Dead letters, the newest 50" in page.texts("caption")[1]
    cells = page.texts("td")
    first = cells.index("<b>bold</b>")
    assert cells[first : first + 5] == ["<b>bold</b>", "products", "0", "1", "1.0 h"]
    assert panel.text.count(">yes</span>") == 50


def test_without_the_index_the_letters_are_shown_and_none_is_called_void(site: Site) -> None:
    given = site.server.services.settings
    server = Server(
        settings(given.postgres_dsn.get_secret_value(), "http://127.0.0.1:9"),
        PineconeIndex("test-key", "http://127.0.0.1:9"),
        WordEmbedder,
    )
    try:
        put(site, "one", ["1"], [1])
        until(lambda: server.client.get("/api/dead-letters").json())
        assert server.client.get("/api/dead-letters").json()[0]["void"] is None
    finally:
        server.stop()
