"""The pages as a person uses them, in a real browser against the whole stack."""

import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from PIL import Image

SAMPLES = sorted((Path(__file__).parents[2] / "shared" / "samples").iterdir())
WIDE, TELEPHONE = (1440, 900), (390, 844)
MOST_BYTES = 200 * 1024
"""Of a page without its photos."""


@pytest.fixture(scope="module")
def stack(new_stack, tmp_path_factory):
    stack = new_stack(
        tmp_path_factory.mktemp("pages"), DEFECTSCOPE_WEBHOOK_ALLOWED_CIDRS="127.0.0.0/8"
    )
    yield stack
    stack.stop()


@pytest.fixture
def visit(stack, browser):
    """Opens a logged-in page; at the end nothing may have been wrong in any of them."""
    contexts, wrong = [], []

    def complain(page, text):
        # The browser's own word for any answer that is an error.
        if not (page.expects_refusals and text.startswith("Failed to load resource")):
            wrong.append(text)

    def open_page(path="/", *, size=WIDE, key=stack.key, **options):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, base_url=stack.url, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.expects_refusals = False
        page.on("console", lambda message: message.type == "error" and complain(page, message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((stack.url, "blob:", "data:")) or wrong.append(request.url)
            ),
        )
        page.goto(f"/login?next={path}")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"**{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def hold(stack):
    """Submits photos that look like no bottle of the training set, so that each is held."""

    def submit(count, **part):
        ids = []
        for index in range(count):
            turned = Image.open(SAMPLES[index % len(SAMPLES)]).rotate(20 + 3 * index)
            file = io.BytesIO()
            turned.save(file, "JPEG", quality=92)
            answer = stack.http.post(
                "/v1/inspections",
                headers={"Prefer": "wait=30"},
                files={"file": ("part.jpg", file.getvalue())},
                data={"product": "bottle", "serial": f"{part['lot']}-{index}", **part},
            )
            assert answer.json()["disposition"] == "hold", answer.text
            ids.append(answer.json()["id"])
        return ids

    return submit


@pytest.fixture(scope="module")
def receiver():
    """Answers 200 and keeps what it was told."""
    told = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", told
    server.shutdown()


def part(page, serial):
    """Wait until the part can be seen and decided."""
    page.locator(
        "#reviewing[aria-busy=false][data-decidable=yes] #part", has_text=serial
    ).wait_for()


@contextmanager
def next_part(page):
    """What is done in this block brings another part onto the review page, or the end of them."""
    before = page.locator("#reviewing").get_attribute("data-shown")
    yield
    page.wait_for_function(
        """before => {
            const { dataset, ariaBusy, hidden } = document.getElementById("reviewing");
            const isAnother = dataset.decidable === "yes" && dataset.shown !== before;
            return ariaBusy === "false" && (hidden || isAnother);
        }""",
        arg=before,
    )


def decision_on(stack, inspection_id):
    return stack.http.get(f"/v1/inspections/{inspection_id}").json()["review"]["decision"]


def test_a_photo_is_picked_and_its_verdict_is_shown(visit):
    page = visit("/")

    page.locator("#file").set_input_files(SAMPLES[5])

    page.get_by_role("heading", name="Defective").wait_for()
    assert page.get_by_text("Reject", exact=True).is_visible()
    page.get_by_role("button", name="Anomaly map").click()
    assert page.locator("[data-layer='2']").evaluate("image => image.style.opacity") == "1"
    assert page.locator("[data-layer='2']").evaluate("image => image.naturalWidth") == 256


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_photo_is_dropped_or_pasted(visit, way):
    page = visit("/")

    page.evaluate(
        """async way => {
            const [sample] = document.querySelectorAll("[data-sample*='6-contamination']");
            const photo = await (await fetch(sample.dataset.sample)).blob();
            const carried = new DataTransfer();
            carried.items.add(new File([photo], "dirt.jpg", { type: "image/jpeg" }));
            document.dispatchEvent(
                way === "drop"
                    ? new DragEvent("drop", { dataTransfer: carried })
                    : new ClipboardEvent("paste", { clipboardData: carried }),
            );
        }""",
        way,
    )

    page.locator("#status", has_text="dirt.jpg: defective after").wait_for()
    page.get_by_role("heading", name="Defective").wait_for()


def test_what_is_no_photo_is_refused_in_words(visit):
    page = visit("/")

    page.expects_refusals = True
    page.locator("#file").set_input_files(
        {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"not a photo"}
    )

    page.locator("#status.bad", has_text="neither").wait_for()


def test_a_wrong_key_opens_nothing(stack, browser):
    page = browser.new_page(base_url=stack.url)
    page.goto("/inspections")
    assert page.url.endswith("/login?next=/inspections")

    page.get_by_label("API key").fill("ds_00000000_" + "x" * 43)
    page.get_by_role("button", name="Log in").click()

    assert "unknown, expired or revoked" in page.get_by_role("alert").inner_text()
    page.close()


def test_parts_are_reviewed_by_keyboard_only(stack, visit, hold):
    first, second, third = hold(3, lot="keyboard")
    page = visit("/review?lot=keyboard")
    part(page, "keyboard-0")

    with next_part(page):
        page.keyboard.press("ArrowRight")
        page.keyboard.press("2")
        page.keyboard.press("o")
        page.keyboard.press("c")
        page.keyboard.type("a chip at the rim, good as it may look")
        page.keyboard.press("Escape")
        page.keyboard.press("d")
    decision = decision_on(stack, first)
    assert (decision["verdict"], decision["defect_type"]) == ("defective", "broken_small")
    assert decision["comment"].startswith("a chip")
    assert len(decision["region"]) >= 1

    with next_part(page):
        page.keyboard.press("g")
    assert decision_on(stack, second)["verdict"] == "good"
    # Undo, and decide anew: both can be read, the later one is in force.
    with next_part(page):
        page.keyboard.press("z")
    part(page, "keyboard-1")
    with next_part(page):
        page.keyboard.press("u")
    assert decision_on(stack, second)["verdict"] == "undecidable"
    part(page, "keyboard-2")
    with next_part(page):
        page.keyboard.press("g")

    page.get_by_text("Nothing waits for you").wait_for()
    document = stack.http.get(f"/v1/inspections/{third}").json()
    assert (document["verdict"], document["disposition"]) == ("good", "pass")
    assert document["verdict_source"] == "person"


def test_a_part_is_skipped_and_help_decides_nothing(stack, visit, hold):
    first, second = hold(2, lot="skip")
    page = visit("/review?lot=skip")
    part(page, "skip-0")

    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    page.keyboard.press("g")
    page.keyboard.press("Escape")
    with next_part(page):
        page.keyboard.press("s")
    part(page, "skip-1")
    with next_part(page):
        page.keyboard.press("u")

    # Nobody else is there, so it comes back.
    part(page, "skip-0")
    assert decision_on(stack, first) is None
    assert decision_on(stack, second)["verdict"] == "undecidable"


def test_a_box_is_drawn_with_the_mouse(stack, visit, hold):
    (held,) = hold(1, lot="boxes")
    page = visit("/review?lot=boxes")
    part(page, "boxes-0")
    sheet = page.locator("#sheet").bounding_box()

    page.get_by_role("button", name="Draw a box").click()
    page.mouse.move(sheet["x"] + sheet["width"] * 0.25, sheet["y"] + sheet["height"] * 0.25)
    page.mouse.down()
    page.mouse.move(sheet["x"] + sheet["width"] * 0.5, sheet["y"] + sheet["height"] * 0.75, steps=4)
    page.mouse.up()
    # A picture that the drag selects as well lies under a blue veil from then on.
    assert page.evaluate("getSelection().type") != "Range"
    with next_part(page):
        page.get_by_role("button", name="Defective").click()

    (box,) = decision_on(stack, held)["region"]
    assert [box[0], box[2]] == [
        pytest.approx([0.25, 0.25], abs=0.01),
        pytest.approx([0.5, 0.75], abs=0.01),
    ]


def test_what_was_decided_elsewhere_meanwhile_is_not_overruled_unseen(stack, visit, hold):
    first, second = hold(2, lot="meanwhile")
    page = visit("/review?lot=meanwhile")
    part(page, "meanwhile-0")
    # The same reviewer in another window takes the part over and decides it.
    review = stack.http.get(f"/v1/inspections/{first}").json()["review"]["id"]
    token = stack.http.post(f"/v1/reviews/{review}/claim").json()["lease_token"]
    decision = {"lease_token": token, "verdict": "defective"}
    stack.http.post(f"/v1/reviews/{review}/decision", json=decision).raise_for_status()

    page.expects_refusals = True
    with next_part(page):
        page.keyboard.press("g")

    page.locator("#toast", has_text="Somebody else has decided this part").wait_for()
    part(page, "meanwhile-1")
    assert decision_on(stack, first)["verdict"] == "defective"
    assert decision_on(stack, second) is None


def test_a_claim_that_was_lost_is_told_and_nothing_is_decided(stack, visit, hold):
    (held,) = hold(1, lot="lost")
    page = visit("/review?lot=lost")
    part(page, "lost-0")
    review = stack.http.get(f"/v1/inspections/{held}").json()["review"]["id"]
    token = stack.http.post(f"/v1/reviews/{review}/claim").json()["lease_token"]
    stack.http.post(f"/v1/reviews/{review}/release", json={"lease_token": token})

    page.expects_refusals = True
    page.keyboard.press("g")

    page.locator("#toast", has_text="it is yours again").wait_for()
    assert decision_on(stack, held) is None
    page.keyboard.press("g")
    page.get_by_text("Nothing waits for you").wait_for()
    assert decision_on(stack, held)["verdict"] == "good"


def test_the_second_tap_of_a_double_tap_decides_nothing(stack, visit, hold):
    first, second = hold(2, lot="twice")
    page = visit("/review?lot=twice")
    part(page, "twice-0")
    page.evaluate(
        """() => {
            const press = () => {
                document.body.dataset.pressed = "yes";
                const key = new KeyboardEvent("keydown", { key: "d", bubbles: true });
                document.body.dispatchEvent(key);
                for (const button of document.querySelectorAll("[data-verdict]")) button.click();
            };
            const observer = new MutationObserver(() => setTimeout(press, 100));
            const options = { attributeFilter: ["data-shown"] };
            observer.observe(document.getElementById("reviewing"), options);
        }"""
    )

    page.keyboard.press("g")

    part(page, "twice-1")
    assert page.evaluate("document.body.dataset.pressed") == "yes"
    assert decision_on(stack, first)["verdict"] == "good"
    assert decision_on(stack, second) is None


def test_a_decision_whose_answer_was_lost_is_known_when_the_service_is_back(stack, visit, hold):
    first, second = hold(2, lot="answerless")
    page = visit("/review?lot=answerless")
    part(page, "answerless-0")

    def lose(route):
        route.fetch()
        route.abort()

    page.expects_refusals = True
    page.route("**/decision", lose)
    page.keyboard.press("g")
    page.locator("#toast", has_text="may have arrived").wait_for()
    page.unroute("**/decision")
    assert decision_on(stack, first)["verdict"] == "good"

    with next_part(page):
        page.keyboard.press("g")
    page.locator("#toast", has_text="Your decision had arrived").wait_for()
    part(page, "answerless-1")
    assert decision_on(stack, second) is None
    # It can be taken back: this one, and not the one before.
    with next_part(page):
        page.keyboard.press("z")
    part(page, "answerless-0")


def test_the_time_of_day_of_a_tablet_does_not_matter(visit, hold):
    """Ahead by more than a claim lasts, every part would seem to be somebody else's already."""
    page = visit("/review?lot=clock")
    page.get_by_text("Nothing waits for you").wait_for()
    page.evaluate(
        """() => {
            const Real = Date, ahead = () => Real.now() + 600000;
            window.Date = class extends Real {
                constructor(...given) { given.length ? super(...given) : super(ahead()); }
                static now() { return ahead(); }
            };
        }"""
    )
    hold(3, lot="clock")
    part(page, "clock-0")
    with page.expect_response(lambda response: "clock-2" in claimed_by(response)):
        with next_part(page):
            page.keyboard.press("g")
        part(page, "clock-1")
    # The third is claimed while the second is looked at: what is claimed is shown.
    asked = []
    page.on("request", lambda request: request.url.endswith("/next") and asked.append(request))
    with next_part(page):
        page.keyboard.press("g")
    part(page, "clock-2")
    assert len(asked) == 1


def claimed_by(response):
    """The document of a claim of whatever is next, as text."""
    is_claim = response.url.endswith("/v1/reviews/next") and response.status == 200
    return response.text() if is_claim else ""


def test_a_part_stays_a_reviewer_s_while_they_are_at_it(visit, hold):
    hold(1, lot="active")
    page = visit("/")
    page.clock.install()
    page.goto("/review?lot=active")
    part(page, "active-0")

    with page.expect_response("**/extend") as extended:
        page.clock.fast_forward(31_000)  # a quarter of the lease
    assert extended.value.status == 200
    # Nobody moves for more than half of it: whoever that is may have gone home.
    asked = []
    page.on("request", lambda request: request.url.endswith("/extend") and asked.append(request))
    page.clock.fast_forward(61_000)
    page.evaluate("() => fetch('/healthz')")
    assert asked == []
    page.mouse.move(40, 400)
    page.mouse.move(60, 420)
    with page.expect_response("**/extend"):
        page.clock.fast_forward(31_000)


def test_on_a_telephone_the_buttons_are_at_hand_and_the_way_back_is_there_at_the_end(
    stack, visit, hold
):
    (held,) = hold(1, lot="thumb")
    page = visit("/review?lot=thumb", size=TELEPHONE)
    part(page, "thumb-0")

    for name in ("Good", "Defective", "Cannot tell", "Skip"):
        button = page.locator(".decide").get_by_role("button", name=name).bounding_box()
        assert button["y"] + button["height"] <= TELEPHONE[1]
        assert button["height"] >= 44
    page.locator(".decide").get_by_role("button", name="Good").click()
    page.get_by_text("Nothing waits for you").wait_for()
    page.get_by_role("button", name="Undo the last decision").click()
    part(page, "thumb-0")
    page.locator(".decide").get_by_role("button", name="Defective").click()
    page.get_by_text("Nothing waits for you").wait_for()
    assert decision_on(stack, held)["verdict"] == "defective"


@pytest.fixture(scope="module")
def second_key(stack):
    made = stack.http.post("/v1/keys", json={"name": "second", "scopes": ["review", "read"]})
    return made.json()["key"]


def test_everybody_sees_who_looks_at_what(stack, visit, hold, second_key):
    (held,) = hold(1, lot="whose")
    review = stack.http.get(f"/v1/inspections/{held}").json()["review"]["id"]
    mine = visit("/review?lot=whose")
    mine.locator("#waiting", has_text="You whose-0").wait_for()

    theirs = visit("/review?lot=whose", key=second_key)
    theirs.get_by_text("Nothing waits for you").wait_for()
    theirs.locator("#waiting", has_text="first admin whose-0").wait_for()
    theirs.expects_refusals = True
    theirs.goto(f"/review?id={review}")
    theirs.locator("#toast", has_text="first admin looks at this part, until").wait_for()


def test_a_held_part_is_decided_from_its_verdict(stack, visit):
    page = visit("/")
    page.locator("[data-sample*='2-broken-large']").click()

    page.get_by_role("heading", name="On hold").wait_for()
    inspection = page.locator(".result").get_attribute("data-inspection")
    page.get_by_role("link", name="Decide it now").click()
    part(page, inspection[-8:])
    with next_part(page):
        page.keyboard.press("d")
    assert decision_on(stack, inspection)["verdict"] == "defective"


def test_two_reviewers_never_look_at_the_same_part(stack, visit, hold, second_key):
    ids = hold(6, lot="two")
    pages = [visit("/review?lot=two"), visit("/review?lot=two", key=second_key)]
    for page in pages:
        part(page, "two-")
    seen = []

    while any(page.locator("#reviewing").is_visible() for page in pages):
        for page in pages:
            if page.locator("#reviewing").is_visible():
                seen.append(page.locator("#reviewing").get_attribute("data-shown"))
                with next_part(page):
                    page.keyboard.press("g")

    assert len(seen) == len(set(seen)) == len(ids)
    reviewers = {decision_on(stack, id_)["reviewer"] for id_ in ids}
    assert len(reviewers) == 2


def test_the_list_is_live_and_can_be_searched(stack, visit, hold):
    page = visit("/inspections")
    page.get_by_text("live", exact=True).wait_for()

    hold(1, lot="live")
    page.get_by_role("link", name="live-0").wait_for()

    page.get_by_label("Serial").fill("no such part")
    page.get_by_text("Nothing here yet.").wait_for()
    page.get_by_label("Serial").fill("live-0")
    page.get_by_role("link", name="live-0").wait_for()
    with page.expect_download() as taken:
        page.get_by_role("link", name="CSV").click()
    head, *rows = taken.value.path().read_text().splitlines()
    assert "model_verdict" in head
    assert [row.count("live-0") for row in rows] == [1]
    page.get_by_role("link", name="live-0").click()
    page.get_by_role("heading", name="History").wait_for()
    assert page.get_by_text("accepted", exact=True).is_visible()


def test_a_threshold_is_changed_after_a_look_at_what_it_would_do(stack, visit, hold):
    hold(2, lot="what-if")
    before = stack.http.get("/v1/products/bottle/thresholds").json()
    page = visit("/models/bottle")

    with page.expect_response("**/models/bottle/what-if**"):
        page.get_by_label("Defective from", exact=True).fill("80")
    page.get_by_role("rowheader", name="Review load held for a person").wait_for()
    page.get_by_role("button", name="Use these thresholds").click()

    page.get_by_text("version 2", exact=False).first.wait_for()
    after = stack.http.get("/v1/products/bottle/thresholds").json()
    assert (before["version"], after["version"]) == (1, 2)
    assert after["thresholds"]["defect_probability"] == pytest.approx(0.8)


def test_a_webhook_is_added_tested_and_hears_of_a_part(stack, visit, hold, receiver):
    url, told = receiver
    page = visit("/webhooks")

    page.get_by_label("URL: where to POST").fill(url)
    page.get_by_role("button", name="Add").click()
    assert page.get_by_text("whsec_").first.is_visible()
    page.get_by_role("button", name="Send a test").click()

    page.get_by_text("200").first.wait_for()
    assert [one["type"] for one in told] == ["webhook.test"]
    hold(1, lot="hook")
    page.wait_for_timeout(500)
    assert told[-1]["type"] == "inspection.completed"
    assert told[-1]["serial"] == "hook-0"


def test_more_inspections_join_the_list(stack, visit):
    for _ in range(31):
        stack.submit(SAMPLES[0], product="bottle", lot="many").raise_for_status()
    page = visit("/inspections?lot=many")
    rows = page.locator("#rows tbody tr:has(a)")
    assert rows.count() == 30

    page.get_by_role("button", name="More").click()

    page.wait_for_function("() => document.querySelectorAll('#rows tbody tr a').length === 31")
    # In the same columns: one table.
    assert page.locator("#rows table").count() == 1


PAGES = (
    "/",
    "/review",
    "/inspections",
    "/models",
    "/models/bottle",
    "/webhooks",
    "/keys",
    "/audit",
    "/how-it-works",
)


# Colours go with the scheme and places with the size: two of four pairs see both of each.
@pytest.mark.parametrize(
    ("scheme", "size"), [("light", WIDE), ("dark", TELEPHONE)], ids=["light-wide", "dark-telephone"]
)
def test_pages_can_be_used_by_everybody(stack, visit, hold, axe, scheme, size):
    held, seen = hold(2, lot=f"axe-{scheme}-{size[0]}")
    review = stack.http.get(f"/v1/inspections/{seen}").json()["review"]["id"]
    endpoint = stack.http.post("/v1/webhooks", json={"url": "http://127.0.0.1:9/"}).json()["id"]
    page = visit("/", size=size, color_scheme=scheme, bypass_csp=True)
    page.expects_refusals = True
    found = {}
    more = f"/inspections/{held}", f"/review?id={review}", f"/webhooks/{endpoint}"
    for path in (*PAGES, *more, "/login", "/nonsense"):
        page.goto(path)
        page.wait_for_load_state("load")
        page.wait_for_timeout(300)
        page.add_script_tag(path=axe)
        for violation in page.evaluate("() => axe.run()")["violations"]:
            nodes = [node["target"] for node in violation["nodes"][:3]]
            found[path, violation["id"]] = (violation["help"], nodes)
        # Nothing sticks out to the right.
        if page.evaluate("() => document.documentElement.scrollWidth > innerWidth"):
            found[path, "too wide"] = page.url

    assert found == {}


def test_pages_are_light(visit):
    page = visit("/")
    for path in PAGES:
        sizes = []
        page.on(
            "response",
            lambda response, sizes=sizes: (
                response.headers.get("content-type", "").startswith("image/jpeg")
                or response.url.endswith("/v1/stream")
                or sizes.append(int(response.headers.get("content-length", 0)))
            ),
        )
        page.goto(path)
        page.wait_for_load_state("load")

        assert sum(sizes) < MOST_BYTES, path
