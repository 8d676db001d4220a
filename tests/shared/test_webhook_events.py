"""The bodies of webhooks: what is in them, and that they stay short."""

import json
from datetime import timedelta

import pytest

from shared import accepting, claiming, endpoints, inspections, reviews
from shared.db import transaction
from shared.delivering import due, lease
from shared.endpoints import SUBSCRIBABLE, Filter
from shared.inspection_document import InspectionOut
from shared.inspections import Recorded
from shared.reviews import Decided, Filters
from shared.tables import Inspection, ReviewDecision
from shared.verdicts import Disposition, Outcome, ReviewReason, Scores, Verdict
from shared.webhook_events import MOST_BYTES, ReviewEvent, body
from shared.webhook_tables import Event

LEASE = timedelta(minutes=2)
BASE = "https://inspection.plant"
REGION = [[[0.1, 0.1], [0.2, 0.1], [0.2, 0.2]]]
# The most that a reviewer can draw: 20 polygons of 100 points.
LARGEST_REGION = [[[0.1234, 0.5678]] * 100] * 20
TIMINGS = dict.fromkeys(("queued", "fetch", "decode", "infer", "record"), 1)


@pytest.fixture
def send(organisation):
    """Hold a part, decide it as often as said, and give the bodies in the order of the events."""
    with transaction() as session:
        endpoints.create(
            session,
            organisation_id=organisation,
            url="https://mes.example/hook",
            events=SUBSCRIBABLE,
            filter_=Filter(),
            description="",
            actor="test",
        )

    def send(*decisions, metadata=None, regions=(), **part):
        id_ = accepting.new_inspection_id()
        image = accepting.StoredImage(f"images/{id_}.png", "00" * 32, 1, "image/png", 900, 900)
        words = accepting.Part(**part, annotations=metadata or {})
        photo = accepting.Submitted(id_, image, words, 5)
        reasons = (ReviewReason.NEAR_THRESHOLD,)
        outcome = Outcome(Verdict.GOOD, Disposition.HOLD, reasons, False, False, True)
        with transaction() as session:
            accepting.accept(
                *(session,),
                **{"organisation_id": organisation, "product": "bottle"},
                **{"photo": photo, "actor": "test"},
            )
        with transaction() as session:
            batch = claiming.claim(session, limit=1, lease=LEASE, worker="worker:a")
            scores = Scores(0.32, 0.001, 1.0, 10.0, ())
            result = Recorded(id_, scores, outcome, "cpu", "o", "a", list(regions), TIMINGS)
            inspections.record(session, token=batch.token, results=[result], worker="worker:a")
        review_id = None
        for decided in decisions:
            asked = {"organisation_id": organisation, "reviewer": "key_anna"}
            with transaction() as session:
                if review_id is None:
                    row = reviews.claim_next(session, **asked, filters=Filters(), lease=LEASE)
                else:
                    row = reviews.claim(session, **asked, review_id=review_id, lease=LEASE)
                review_id = row.id
                reviews.decide(
                    session,
                    **asked,
                    review_id=review_id,
                    lease_token=row.lease_token,
                    decided=decided,
                )
        with transaction() as session:
            (leased,) = lease(session, limit=1, duration=LEASE)
            messages = sorted(
                due(session, leased, limit=9).messages, key=lambda message: message.id
            )
            return [body(message, BASE) for message in messages]

    return send


def test_a_verdict_and_its_decision_are_two_events(db, send):
    part = {"serial": "SN1", "lot": "L7", "line": "L2", "station": "cam1"}
    completed, decided = map(
        json.loads,
        send(
            Decided(Verdict.DEFECTIVE, "broken_large", REGION, "chipped"),
            metadata={"shift": "early"},
            **part,
        ),
    )

    assert completed["type"] == Event.INSPECTION_COMPLETED
    assert decided["type"] == Event.REVIEW_DECIDED
    assert {name: decided[name] for name in part} == part
    decision = db.query(ReviewDecision).one()
    assert decided["decision"] == {
        **{"id": decision.id, "reviewer": "key_anna", "verdict": "defective"},
        **{"defect_type": "broken_large", "region": REGION, "comment": "chipped"},
        "at": decided["timestamp"],
    }
    data = decided["data"]
    assert (data["verdict"], data["disposition"]) == ("defective", "reject")
    assert (data["verdict_source"], data["needs_review"]) == ("person", False)
    assert data["metadata"] == {"shift": "early"}
    document = InspectionOut.of(db.query(Inspection).one(), BASE)
    assert data == json.loads(document.model_dump_json())


def test_each_decision_is_told_as_it_was_with_the_one_in_force_beside_it(send):
    _, first, second = map(
        json.loads, send(Decided(Verdict.GOOD), Decided(Verdict.DEFECTIVE, "other"))
    )

    said = [(event["decision"]["verdict"], event["data"]["verdict"]) for event in (first, second)]
    assert said == [("good", "defective"), ("defective", "defective")]
    assert first["data"]["review"]["decision"]["id"] == second["decision"]["id"]


def test_a_huge_region_is_left_out_and_what_the_mes_sent_is_kept(send):
    completed, decided = send(
        Decided(Verdict.DEFECTIVE, "other", LARGEST_REGION, "all over"),
        metadata={"order": 4711},
        regions=REGION,
    )

    assert len(json.dumps(LARGEST_REGION)) > MOST_BYTES
    for sent in (completed, decided):
        assert len(sent) <= MOST_BYTES
    event = json.loads(decided)
    assert event["decision"]["region"] is None
    assert event["data"]["review"]["decision"]["region"] is None
    assert (event["decision"]["comment"], event["decision"]["defect_type"]) == ("all over", "other")
    assert event["data"]["metadata"] == {"order": 4711}
    ReviewEvent.model_validate(event)


def test_huge_metadata_are_left_out_too(send):
    metadata = {str(number): "ö" * 1000 for number in range(12)}
    completed, decided = map(
        json.loads,
        send(Decided(Verdict.DEFECTIVE, "other", LARGEST_REGION), metadata=metadata),
    )

    assert completed["data"]["metadata"] == decided["data"]["metadata"] == {}
    assert decided["decision"]["region"] is None


@pytest.mark.parametrize("letter", ["x", "\U0001f50d", "\x01", '"'])
def test_the_longest_of_everything_fits(send, letter):
    word = letter * 200 if letter != "\x01" else "\U0001f50d" * 200
    sent = send(
        Decided(Verdict.DEFECTIVE, "other", LARGEST_REGION, letter * 2000),
        metadata={"all": letter.replace("\x01", "x") * 4000},
        regions=LARGEST_REGION,
        **dict.fromkeys(("serial", "lot", "line", "station"), word),
    )

    assert [len(message) <= MOST_BYTES for message in sent] == [True, True]
    event = json.loads(sent[1])
    assert event["serial"] == word
    # As much of the comment as there is room for; the link has the rest.
    assert event["decision"]["comment"].startswith(letter * 500)
    ReviewEvent.model_validate(event)


def test_what_is_short_is_not_touched(send):
    comment = "x" * 2000
    _, decided = map(
        json.loads,
        send(Decided(Verdict.DEFECTIVE, "other", REGION, comment), regions=REGION),
    )

    assert decided["decision"]["comment"] == comment
    assert decided["data"]["autoencoder"]["regions"] == REGION
