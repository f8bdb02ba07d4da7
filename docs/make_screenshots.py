"""The pictures of the README, taken from a running stack: `python docs/make_screenshots.py [URL]`.

Needs Chromium and `python -m local up`. It edits one product and puts it back, and creates some that it deletes again,
so that the status page has something to show.
"""

import shutil
import sys
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

IMAGES = Path(__file__).with_name("images")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SEARCH_QUERY = "water the plants while I am away"
PHONE_QUERY = "my back hurts at my desk"
BURSTS = 6
BURST_PRODUCTS = 25
SETTLE_SECONDS = 60


def main() -> None:
    url = (sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000").rstrip("/")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit("no Chromium here; on Debian: apt-get install chromium")
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright, httpx.Client(base_url=url, timeout=30) as client:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        search(browser, client, url)
        phone(browser, url)
        status(browser, client, url)
        browser.close()


def window(browser: Browser, url: str, width: int, height: int, scheme: str = "light") -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=2,
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(url)
    return page


def ask(page: Page, query: str) -> None:
    page.fill("#q", query)
    page.wait_for_selector("#results .row .match")
    page.wait_for_load_state("networkidle")


def save(page: Page, name: str) -> None:
    page.evaluate("document.fonts.ready")
    page.mouse.move(0, 0)
    page.screenshot(path=IMAGES / name)


def search(browser: Browser, client: httpx.Client, url: str) -> None:
    """Results, with one row just edited in place."""
    page = window(browser, url, 1_000, 800)
    ask(page, SEARCH_QUERY)
    row = page.locator("#results .row").nth(1)
    product = row.get_attribute("data-key")
    price = client.get(f"/api/products/{product}").json()["price"]
    row.locator(".open").click()
    page.fill("#results .editing [name=price]", f"{float(price or 0) + 1:.2f}")
    page.click("#results .editing .primary")
    page.wait_for_selector("#results .sync.settled")
    page.evaluate("document.activeElement.blur()")
    save(page, "search.png")
    client.patch(f"/api/products/{product}", json={"price": price}).raise_for_status()


def phone(browser: Browser, url: str) -> None:
    page = window(browser, url, 360, 740, "dark")
    ask(page, PHONE_QUERY)
    page.evaluate("document.activeElement.blur()")
    save(page, "phone.png")


def status(browser: Browser, client: httpx.Client, url: str) -> None:
    """The status page after some bursts of work."""
    page = window(browser, url + "/status", 1_000, 640)
    made: list[int] = []
    for burst in range(BURSTS):
        for number in range(BURST_PRODUCTS):
            body = {"name": f"Sample {burst}-{number}", "description": "Made for a picture, and deleted again."}
            created = client.post("/api/products", json=body).raise_for_status().json()
            made.append(created["id"])
        client.get(f"{created['sync']['watch']}&wait_ms=10000")
        page.wait_for_timeout(2_500)
    for product in made:
        client.delete(f"/api/products/{product}").raise_for_status()
    deadline = time.monotonic() + SETTLE_SECONDS
    while client.get("/api/status").json()["state"] != "in_step" and time.monotonic() < deadline:
        page.wait_for_timeout(500)
    page.wait_for_timeout(2_500)
    save(page, "status.png")


if __name__ == "__main__":
    main()
