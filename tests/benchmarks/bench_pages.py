"""How fast the pages are: the review page from decision to the next part, against loading a page.

    .venv/bin/python tests/benchmarks/bench_pages.py --parts 60

The whole stack with the real engine, and Chromium. The next part is claimed and its pictures are
loaded while the present one is looked at; the baseline loads the page of an inspection, as a review
without that would. Weights are what a page needs without photos, over the wire, nothing cached.
The last line is JSON.
"""

import argparse
import io
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import httpx
from measuring import finish
from PIL import Image
from playwright.sync_api import Browser, Page, Request, sync_playwright

from deploy.local import LocalStack
from shared.sample_photos import SAMPLES

_PAGES = ("/", "/review", "/inspections", "/models", "/webhooks", "/keys", "/how-it-works")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=int, default=60)
    arguments = parser.parse_args()
    os.environ.setdefault("DEFECTSCOPE_LOG_LEVEL", "warning")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        stack = LocalStack(Path(folder), host="127.0.0.1", port=0, tell=lambda _: None)
        try:
            stack.start()
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(base_url=stack.url, viewport={"width": 1440, "height": 900})
            page.goto("/login")
            page.get_by_label("API key").fill(stack.admin_key)
            page.get_by_role("button", name="Log in").click()
            weights = {path: weigh(browser, page, path) for path in _PAGES}
            # After these visits, which would claim parts and leave without a word.
            ids = hold(stack, arguments.parts)
            loads = [load(page, id_) for id_ in ids[:20]]
            changes = review(page, arguments.parts - 1)
            browser.close()
        finally:
            stack.stop()
    ratio = statistics.median(loads) / statistics.median(changes)
    print(
        f"from decision to the next part: p50 {statistics.median(changes):.0f} ms, "
        f"p95 {percentile(changes, 95):.0f} ms, worst {max(changes):.0f} ms; loading the page of "
        f"an inspection: p50 {statistics.median(loads):.0f} ms, {ratio:.1f} times as long"
    )
    for path, kilobytes in weights.items():
        print(f"{path:15} {kilobytes:6.0f} kB without photos")
    result = {
        "bench": "pages",
        "change_ms": {
            "p50": statistics.median(changes),
            "p95": percentile(changes, 95),
            "worst": max(changes),
        },
        "ratios": {"page_load": ratio},
        "kilobytes": weights,
    }
    finish(result, as_json=False)


def hold(stack: LocalStack, count: int) -> list[str]:
    """Submit turned samples: so unlike what training saw that each is held."""
    photos = sorted(SAMPLES.iterdir())
    ids = []
    with httpx.Client(
        base_url=stack.url, headers={"Authorization": f"Bearer {stack.admin_key}"}, timeout=60
    ) as http:
        for index in range(count):
            file = io.BytesIO()
            Image.open(photos[index % len(photos)]).rotate(20 + index).save(file, "JPEG")
            answer = http.post(
                "/v1/inspections",
                headers={"Prefer": "wait=60"},
                files={"file": ("part.jpg", file.getvalue())},
                data={"product": "bottle", "serial": f"SN{index}"},
            ).json()
            if answer["disposition"] != "hold":
                raise SystemExit(f"{answer['id']} is not held: {answer['disposition']}")
            ids.append(answer["id"])
    return ids


def review(page: Page, parts: int) -> list[float]:
    """Milliseconds from the key of each decision until the next part can be seen."""
    page.goto("/review")
    page.wait_for_function("() => document.getElementById('reviewing').dataset.shown")
    changes = []
    for _ in range(parts):
        page.wait_for_timeout(400)  # somebody looks at it
        page.locator("#reviewing[data-decidable=yes]").wait_for()
        before = page.locator("#reviewing").get_attribute("data-shown")
        page.keyboard.press("g")
        page.wait_for_function(
            "before => document.getElementById('reviewing').dataset.shown !== before", arg=before
        )
        changes.append(float(page.locator("#reviewing").get_attribute("data-change-ms") or 0))
    return changes


def load(page: Page, inspection_id: str) -> float:
    """Milliseconds until the page of an inspection with its pictures is there."""
    page.goto(f"/inspections/{inspection_id}")
    page.wait_for_load_state("load")
    taken: float = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    return taken


def weigh(browser: Browser, page: Page, path: str) -> float:
    """Kilobytes of a page without photos, in a browser that has nothing yet."""
    context = browser.new_context(base_url="/".join(page.url.split("/", 3)[:3]))
    context.add_cookies(page.context.cookies())
    fresh = context.new_page()
    finished: list[Request] = []

    def note(request: Request) -> None:  # a function: playwright sets an attribute on handlers
        finished.append(request)

    fresh.on("requestfinished", note)
    answer = fresh.goto(path)
    if answer is None or not answer.ok:
        raise SystemExit(f"{path} is not there")
    fresh.wait_for_load_state("load")
    fresh.wait_for_timeout(300)
    sizes = [
        request.sizes()["responseBodySize"]
        for request in list(finished)
        if (response := request.response())
        and "image/jpeg" not in response.headers.get("content-type", "")
    ]
    context.close()
    return sum(sizes) / 1024


def percentile(values: list[float], q: int) -> float:
    return statistics.quantiles(values, n=100)[q - 1]


if __name__ == "__main__":
    main()
