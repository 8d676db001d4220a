"""Photographs the README's pages: a verdict and the review of a part, in Chromium.

defectscope up --samples --data-dir data
.venv/bin/python deploy/readme/photograph_pages.py http://127.0.0.1:8000 "$(cat data/admin.key)"
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_HERE = Path(__file__).parent


def main(url: str, key: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(
            base_url=url, viewport={"width": 1280, "height": 820}, color_scheme="light"
        )
        page.goto("/login")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Log in").click()

        page.locator("[data-sample*='6-contamination']").click()
        page.get_by_role("heading", name="Defective").wait_for()
        page.get_by_role("button", name="Anomaly map").click()
        page.wait_for_load_state("networkidle")
        page.locator(".result").screenshot(path=_HERE / "verdict.jpg", type="jpeg", quality=82)

        page.set_viewport_size({"width": 1440, "height": 940})
        page.goto("/review")
        page.locator("#reviewing[aria-busy=false]").wait_for()
        page.locator("#waiting", has_text="You").wait_for()
        page.screenshot(path=_HERE / "review.jpg", type="jpeg", quality=82)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
