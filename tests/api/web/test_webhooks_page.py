"""Webhooks in the browser: what an integrator does without the API."""

import html
import re

import pytest

from shared import delivering
from shared.db import transaction
from shared.delivering import Attempt
from shared.settings import get_settings
from shared.tables import Scope

URL = "https://93.184.216.34/hook"
EVENTS = ["inspection.completed", "inspection.failed", "review.decided"]
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def create(admin):
    """Adds an endpoint; gives its path and the page that follows."""

    def create(**fields):
        answer = admin.post("/webhooks", **{"url": URL, "events": EVENTS, **fields})
        assert answer.status_code == 303, answer.text
        path = answer.headers["location"]
        return path, admin.get(path).text

    return create


def secret_in(text):
    found = re.search(r"whsec_[\w+/=]+", html.unescape(text))
    return found and found[0]


def send(status_code, reply=""):
    """As a deliverer would, without a receiver."""
    with transaction() as session:
        (leased,) = delivering.lease(session, limit=1, duration=get_settings().lease)
        for due in delivering.due(session, leased, limit=100).messages:
            attempt = Attempt(
                *(due.id, due.run_at, due.created_at),
                latency_ms=12,
                status_code=status_code,
                reply=reply,
            )
            delivering.settle(
                session, leased, [attempt], duration=get_settings().lease, is_all=False
            )
        delivering.release(session, leased)


def api_of(admin, path):
    return admin.get(f"/v1{path}").json()


def test_the_secret_of_a_new_endpoint_is_shown_once(admin, create):
    path, text = create(description="the MES of hall 3", lines="L2, L3", dispositions=["hold"])
    made = api_of(admin, path)

    assert len(secret_in(text)) == len("whsec_") + 44  # 32 bytes in base64
    assert secret_in(admin.get(path).text) is None
    assert (made["filter"]["lines"], made["filter"]["dispositions"]) == (["L2", "L3"], ["hold"])
    assert "the MES of hall 3" in admin.get("/webhooks").text


def test_only_the_secret_that_is_in_force_is_shown(admin, create):
    path, _ = create()
    admin.client.cookies.set("defectscope-once", "whsec_somebody_elses", path=path)

    assert secret_in(admin.get(path).text) is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"url": "https://127.0.0.1/"}, "127.0.0.1"),
        ({"url": "http://93.184.216.34/"}, "Use https"),
        ({"events": []}, "events"),
    ],
)
def test_what_cannot_be_is_said_on_the_form_and_what_was_typed_stays(admin, fields, said):
    answer = admin.post("/webhooks", **{"url": URL, "events": EVENTS, "lines": "L9", **fields})

    assert answer.status_code == 422
    assert said in re.search(r'role="alert">([^<]*)<', answer.text)[1]
    assert 'name="lines" autocomplete="off" value="L9"' in answer.text
    assert api_of(admin, "/webhooks")["webhooks"] == []


def test_changing_it(admin, create):
    path, _ = create(products=["bottle"])
    page = admin.submit(path, url=URL + "/2", events=["review.decided"], description="other")
    changed = api_of(admin, path)

    assert "in force" in page.text
    assert (changed["url"], changed["events"]) == (URL + "/2", ["review.decided"])
    assert (changed["description"], changed["filter"]["products"]) == ("other", [])
    refused = admin.post(path, url="ftp://x", events=["review.decided"])
    assert refused.status_code == 422
    assert 'value="ftp://x"' in refused.text


def test_pause_resume_rotate_delete(admin, create):
    path, first = create()

    assert "what it should hear waits" in admin.submit(f"{path}/pause").text
    assert "paused on request" in admin.get(path).text
    assert "delivered to again" in admin.submit(f"{path}/resume").text
    rotated = admin.submit(f"{path}/rotate").text
    assert secret_in(rotated) not in {None, secret_in(first)}
    assert "The secret before signs as well" in rotated
    assert "deleted" in admin.submit(f"{path}/delete").text
    assert admin.get(path).status_code == 404


def test_a_test_says_a_moment_later_how_it_went(admin, create):
    path, _ = create()
    page = admin.submit(f"{path}/test").text
    outcome = re.search(r'hx-get="(/deliveries/msg_\w+/outcome)"', page)[1]

    on_its_way = admin.get(outcome).text
    assert "on its way" in on_its_way
    assert f"{outcome}?looks=1" in on_its_way
    assert "Is a deliverer running?" in admin.get(f"{outcome}?looks=60").text
    send(500, HOSTILE)
    failed = admin.get(outcome).text
    assert "has not arrived" in failed
    assert "hx-get" not in failed
    assert html.escape(HOSTILE) in failed

    again = re.search(r'action="(/deliveries/msg_\w+/redeliver)"', admin.get(path).text)[1]
    admin.submit(again)
    send(204)
    assert "has arrived" in admin.get(outcome).text


def test_a_test_of_what_is_paused_says_that_it_waits(admin, create):
    path, _ = create()
    admin.post(f"{path}/pause")
    page = admin.submit(f"{path}/test").text
    outcome = re.search(r'hx-get="(/deliveries/msg_\w+/outcome)"', page)[1]

    assert "the endpoint is paused" in admin.get(outcome).text


def test_deliveries_tell_each_attempt_and_are_sent_again(admin, create, queued, judge_all):
    path, _ = create()
    queued(0)
    judge_all()
    send(503, HOSTILE)
    page = admin.get(path).text

    assert "503" in page
    assert "after 12 ms" in page
    assert html.escape(HOSTILE) in page
    assert HOSTILE not in page
    again = re.search(r'action="(/deliveries/msg_\w+/redeliver)"', page)[1]
    assert "sent again" in admin.submit(again).text
    send(200)
    part = {"HX-Target": "deliveries"}
    assert "None is dead" in admin.get(f"{path}?status=dead", headers=part).text
    delivered = admin.get(f"{path}?status=delivered", headers=part).text
    assert "<html" not in delivered
    assert "inspection.completed" in delivered


def test_more_deliveries_are_a_page_away(admin, create):
    path, _ = create()
    for _ in range(23):
        admin.post(f"{path}/test")
    first = admin.get(path).text
    more = html.unescape(re.search(rf'hx-get="({path}\?page_token=[^"]+)"', first)[1])

    rest = admin.get(more, headers={"HX-Target": "more"}).text

    assert (first.count('class="delivery"'), rest.count('class="delivery"')) == (20, 3)
    assert "hx-get" not in rest


def test_a_replay_tells_how_many_and_wants_to_know_of_what(admin, create, queued, judge_all):
    queued(0, 0)
    judge_all()
    path, _ = create()

    assert "2 deliveries are on their way" in admin.submit(f"{path}/replay", lot="L7").text
    assert "Nothing matches" in admin.submit(f"{path}/replay", lot="other").text
    refused = admin.post(f"{path}/replay", lot="")
    assert refused.status_code == 422
    assert "Name at least one" in refused.text
    assert admin.post(f"{path}/replay", since="yesterday").status_code == 422


def test_descriptions_are_text(admin, create):
    path, text = create(description=HOSTILE, lines=HOSTILE)

    for shown in (text, admin.get("/webhooks").text, admin.get(path).text):
        assert HOSTILE not in shown
        assert "&lt;script&gt;" in shown


def test_a_form_from_elsewhere_changes_nothing(admin, create):
    path, _ = create()
    for action in ("/webhooks", path, *(f"{path}/{what}" for what in ("delete", "rotate", "test"))):
        answer = admin.client.post(action, data={"url": URL, "events": EVENTS})
        assert answer.status_code == 403
    (only,) = api_of(admin, "/webhooks")["webhooks"]
    assert only["previous_secret_until"] is None


def test_who_may_not_administrate_is_told_so(log_in, create):
    path, _ = create()
    reader = log_in(Scope.READ, Scope.SUBMIT, Scope.REVIEW)

    for answer in (reader.get("/webhooks"), reader.get(path), reader.post(f"{path}/delete")):
        assert answer.status_code == 403
        assert "lacks the scope" in answer.text


def test_the_endpoints_of_others_do_not_exist(log_in, admin, create):
    path, _ = create()
    sent = admin.submit(f"{path}/test").text
    outcome = re.search(r'hx-get="(/deliveries/msg_\w+)/outcome"', sent)[1]
    stranger = log_in(Scope.ADMIN, organisation_id="org_stranger")

    for answer in (
        stranger.get(path),
        stranger.post(path, url=URL, events=EVENTS),
        *(stranger.post(f"{path}/{what}") for what in ("pause", "rotate", "delete", "test")),
        stranger.post(f"{path}/replay", lot="L7"),
        stranger.get(f"{outcome}/outcome"),
        stranger.post(f"{outcome}/redeliver"),
    ):
        assert answer.status_code == 404
        assert "<h1>That did not work</h1>" in answer.text
    assert URL not in stranger.get("/webhooks").text
