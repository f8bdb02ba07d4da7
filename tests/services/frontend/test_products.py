"""Products over the JSON API: create, read, change, delete, and every way to be wrong."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.services.frontend.site import Site

LAMP = {"sku": "L-1", "name": "Lamp", "description": "Light", "category": "Home", "price": 12.5, "attributes": {"w": 5}}


def post(site: Site, body: Any) -> httpx.Response:
    return site.client.post("/api/products", json=body)


def sent(site: Site, method: str, path: str, body: bytes) -> httpx.Response:
    return site.client.request(method, path, content=body, headers={"Content-Type": "application/json"})


def test_a_product_is_created_read_changed_and_deleted(site: Site) -> None:
    created = post(site, LAMP)
    assert created.status_code == 201
    product = created.json()
    path = f"/api/products/{product['id']}"
    assert created.headers["Location"] == path
    assert {name: product[name] for name in LAMP} == LAMP
    assert product["sync"]["affects"] == "text"
    read = site.client.get(path)
    assert read.json() == {name: value for name, value in product.items() if name != "sync"}

    changed = site.client.patch(path, json={"price": None, "name": "Better lamp"})
    assert changed.status_code == 200
    assert (changed.json()["name"], changed.json()["price"], changed.json()["sku"]) == ("Better lamp", None, "L-1")
    assert changed.json()["updated_at"] > product["updated_at"]

    assert site.client.delete(path).json()["sync"]["affects"] == "text"
    for method in ("GET", "DELETE"):
        gone = site.client.request(method, path)
        assert gone.status_code == 404
        assert gone.json()["error"]["code"] == "not_found"
    assert site.client.patch(path, json={"name": "x"}).status_code == 404


def test_what_is_left_out_gets_a_default(site: Site) -> None:
    product = post(site, {"name": "Bare"}).json()
    assert product["sku"].startswith("P-")
    assert (product["description"], product["category"], product["price"], product["attributes"]) == ("", "", None, {})


def test_a_change_says_what_of_the_index_it_concerns(site: Site) -> None:
    path = f"/api/products/{post(site, LAMP).json()['id']}"
    affects = [
        site.client.patch(path, json=change).json()["sync"]["affects"]
        for change in (
            {"description": "Other light"},
            {"price": 13},
            {"attributes": {"w": 6}},
            {"name": "", "description": " "},
            {"price": 14},
        )
    ]
    assert affects == ["text", "metadata", "nothing", "text", "nothing"]


def test_the_list_is_paged_by_key_and_misses_nothing_while_rows_come_and_go(site: Site) -> None:
    ids = [site.insert(f"Thing {number}", category="A" if number % 2 else "B") for number in range(25)]
    first = site.client.get("/api/products", params={"limit": 10}).json()
    site.insert("Newer")
    site.database.execute("DELETE FROM products WHERE id = %s", [ids[15]])
    listed = [item["id"] for item in first["items"]]
    after = first["next"]
    while after is not None:
        page = site.client.get("/api/products", params={"limit": 10, "after": after}).json()
        listed += [item["id"] for item in page["items"]]
        after = page["next"]
    assert listed == sorted(ids, reverse=True)
    only = site.client.get("/api/products", params={"category": "A", "limit": 200}).json()
    assert {item["category"] for item in only["items"]} == {"A"}
    assert only["next"] is None


def test_a_sku_belongs_to_one_product(site: Site) -> None:
    assert post(site, LAMP).status_code == 201
    again = post(site, LAMP)
    assert again.status_code == 409
    assert again.json()["error"]["fields"] == [
        {"field": "sku", "message": "another product has it already; choose another one"}
    ]
    other = post(site, LAMP | {"sku": "L-2"}).json()["id"]
    assert site.client.patch(f"/api/products/{other}", json={"sku": "L-1"}).status_code == 409


def test_a_change_of_a_version_that_is_no_longer_there_is_refused(site: Site) -> None:
    created = post(site, LAMP)
    path, seen = created.headers["Location"], created.headers["ETag"]
    site.database.execute("UPDATE products SET price = 1")
    late = site.client.patch(path, json={"name": "Mine"}, headers={"If-Match": seen})
    assert late.status_code == 412
    assert "changed by someone else" in late.json()["error"]["message"]
    assert site.client.delete(path, headers={"If-Match": seen}).status_code == 412
    fresh = site.client.get(path).headers["ETag"]
    assert site.client.patch(path, json={"name": "Mine"}, headers={"If-Match": fresh}).status_code == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": None}, "name: input should be a valid string"),
        ({"name": 5}, "name: input should be a valid string"),
        ({"name": "x" * 501}, "name: at most 500 characters, and this has 501"),
        ({"name": "a\0b"}, "name: holds a NUL byte"),
        ({"description": "a\0b"}, "description: holds a NUL byte"),
        ({"description": "x" * 1_048_577}, "description: at most 1,048,576 characters"),
        ({"description": "\ud800"}, "surrogate"),
        ({"category": "x" * 101}, "category: at most 100"),
        ({"sku": "  "}, "sku: must not be blank"),
        ({"sku": "x" * 101}, "sku: at most 100"),
        ({"price": -0.01}, "price: must be 0 or more"),
        ({"price": 1e10}, "price: must be 9,999,999,999.99 or less"),
        ({"price": 1.005}, "price: decimal input should have no more than 2 decimal places"),
        ({"price": "NaN"}, "price: must be a finite number"),
        ({"price": "Infinity"}, "price: must be a finite number"),
        ({"price": "cheap"}, "price: input should be a valid decimal"),
        ({"price": True}, "price"),
        ({"attributes": [1]}, "attributes: must be a JSON object"),
        ({"attributes": {"a": "\0"}}, "attributes: holds a NUL byte"),
        ({"attributes": {"a": "\ud800"}}, "attributes: holds NaN, Infinity or half of a surrogate pair"),
        ({"attributes": {"a": "x" * 70_000}}, "attributes: at most 65,536 bytes"),
        ({"colour": "red"}, "colour: is not a field of this object"),
        ({"id": 5}, "id: is not a field of this object"),
    ],
)
def test_a_value_that_breaks_a_rule_is_named_with_the_rule_and_changes_nothing(
    site: Site, change: dict[str, Any], words: str
) -> None:
    product = site.insert("Kept")
    body = json.dumps({"name": "New"} | change).encode()
    for method, path in (("POST", "/api/products"), ("PATCH", f"/api/products/{product}")):
        answer = sent(site, method, path, body)
        assert answer.status_code == 422, answer.text
        expected = "name must not be null" if change == {"name": None} and method == "PATCH" else words
        assert expected in answer.json()["error"]["message"], answer.text
    rows = site.database.execute("SELECT name FROM products").fetchall()
    assert rows == [{"name": "Kept"}]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b'{"name": NaN}',
        b'{"name": "x", "price": NaN}',
        b'{"name": "x", "price": Infinity}',
        b'{"name": "x", "price": -1e999}',
        b'{"name": "x", "price": ' + b"9" * 5_000 + b"}",
        b'{"name": "x", "attributes": {"deep": ' + b"[" * 60_000 + b"]" * 60_000 + b"}}",
        b'{"name": "\xff"}',
    ],
)
def test_a_body_that_is_not_a_product_gets_a_clear_refusal(site: Site, body: bytes) -> None:
    answer = sent(site, "POST", "/api/products", body)
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["message"]
    assert site.database.execute("SELECT id FROM products").fetchall() == []


def test_a_body_that_is_too_large_is_refused(site: Site) -> None:
    answer = post(site, {"name": "x", "description": "y" * 9_000_000})
    assert answer.status_code == 413
    assert "larger than 8,388,608 bytes" in answer.json()["error"]["message"]


def test_a_description_of_a_megabyte_is_kept_whole(site: Site) -> None:
    text = "Ein Topf für Suppe. 🍲 " * 45_000
    product = post(site, {"name": "Long", "description": text}).json()["id"]
    assert site.client.get(f"/api/products/{product}").json()["description"] == text


@pytest.mark.parametrize("id", ["0", "-1", "x", "1.5", "9" * 30, "%00"])
def test_an_id_that_is_none_is_refused(site: Site, id: str) -> None:
    assert site.client.get(f"/api/products/{id}").status_code == 422


def test_a_change_of_nothing_is_refused(site: Site) -> None:
    product = site.insert("Lamp")
    answer = site.client.patch(f"/api/products/{product}", json={})
    assert answer.status_code == 422
    assert "at least one field" in answer.json()["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(
    st.sampled_from(["sku", "name", "description", "category", "price", "attributes", "other"]), JSON, max_size=6
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=FIELDS, name=st.text(max_size=20))
def test_no_body_makes_the_server_fail(site: Site, body: dict[str, Any], name: str) -> None:
    for candidate in (body, body | {"name": name}):
        answer = sent(site, "POST", "/api/products", json.dumps(candidate).encode())
        assert answer.status_code in (201, 409, 422), answer.text
        if answer.status_code == 201:
            product = answer.json()["id"]
            assert site.client.get(f"/api/products/{product}").json()["name"] == candidate["name"]
            assert sent(site, "PATCH", f"/api/products/{product}", json.dumps(body).encode()).status_code in (
                200,
                409,
                422,
            )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parameters=st.dictionaries(
        st.sampled_from(
            ["q", "limit", "offset", "category", "min_price", "max_price", "mode", "wait_for", "wait_ms", "x"]
        ),
        st.text(max_size=12) | st.integers().map(str) | st.floats().map(str),
    ).map(lambda found: found | ({"wait_ms": "0"} if "wait_ms" in found else {}))
)
def test_no_query_string_makes_the_server_fail(site: Site, parameters: dict[str, str]) -> None:
    for path in ("/api/search", "/results", "/"):
        answer = site.client.get(path, params={"mode": "hybrid"} | parameters)
        assert answer.status_code in (200, 422), answer.text
