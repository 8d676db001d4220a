"""Whose turn it is, on the real queue."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from shared import accepting, claiming
from shared.db import transaction


@pytest.fixture
def submit(organisation):
    def submit(station, count, priority=5, actor="key"):
        ids = []
        for _ in range(count):
            with transaction() as session:
                ids.append(accepting.new_inspection_id())
                image = accepting.StoredImage("k", "00" * 32, 1, "image/png", 900, 900)
                part = accepting.Part(station=station)
                photo = accepting.Submitted(ids[-1], image, part, priority)
                accepting.accept(
                    session,
                    organisation_id=organisation,
                    product="bottle",
                    photo=photo,
                    actor=actor,
                )
        return ids

    return submit


@pytest.fixture
def claim():
    """Claims as a worker does: going on where the last claim ended."""
    state = {"after": ""}

    def claim(limit, after=None):
        with transaction() as session:
            batch = claiming.claim(
                session,
                limit=limit,
                lease=timedelta(seconds=30),
                worker="worker:test",
                after=state["after"] if after is None else after,
            )
        if batch is None:
            return []
        state["after"] = batch.last_source
        return [one.id for one in batch.inspections]

    return claim


def test_a_long_lot_does_not_hold_up_a_station(submit, claim):
    lot = submit("archive", 20)
    station = submit("cam1", 2)
    taken = claim(4)
    assert set(station) <= set(taken)
    assert set(taken) - set(station) == set(lot[:2])


def test_one_source_alone_gets_every_place_oldest_first(submit, claim):
    lot = submit("archive", 6)
    assert sorted(claim(4)) == sorted(lot[:4])
    assert sorted(claim(4)) == sorted(lot[4:])
    assert claim(4) == []


def test_a_photo_to_be_judged_alone_has_its_turn_beside_long_lots(submit, claim):
    """Left out of each batch, it would wait until one of the lots is at its end."""
    lots = [submit(name, 12) for name in "ab"]
    alone = lots[1][0]
    with transaction() as session:
        session.execute(
            text("UPDATE inspections SET is_alone = true WHERE id = :id"), {"id": alone}
        )
    batches = [claim(4, after="b"), claim(4), claim(4)]
    assert [alone] in batches
    assert sum(alone in batch for batch in batches) == 1


def test_more_sources_than_places_all_get_their_turn(submit, claim):
    first = {name: submit(name, 3) for name in "abcdefg"}
    taken = [claim(3), claim(3), claim(3)]
    served = [name for batch in taken for name, ids in first.items() if set(ids) & set(batch)]
    # Nine places over seven sources: each once before any has its second.
    assert [sorted(served[first : first + 3]) for first in (0, 3)] == [list("abc"), list("def")]
    assert sorted(served[6:]) == ["a", "b", "g"]
    fourth = claim(3)
    assert [name for name, ids in first.items() if set(ids) & set(fourth)] == ["c", "d", "e"]


def test_the_urgent_come_first_whoever_sent_them(submit, claim):
    submit("archive", 5, priority=2)
    urgent = submit("archive", 1, priority=9)
    normal = submit("cam1", 1)
    assert claim(4) == urgent
    assert claim(4) == normal
    assert len(claim(4)) == 4


def test_keys_are_sources_of_their_own(submit, claim):
    submit(None, 9, actor="bulk")
    other = submit(None, 1, actor="mes")
    assert set(other) <= set(claim(2))


def test_a_claim_beside_others_that_hold_the_first_rows_is_not_empty(submit, claim):
    lot = submit("archive", 30)
    with transaction() as session:
        held = session.execute(
            text("SELECT id FROM inspections WHERE id = ANY(:ids) FOR UPDATE"), {"ids": lot[:20]}
        ).all()
        assert len(held) == 20
        # Four times as many candidates as places are all among the held ones.
        assert sorted(claim(2)) == sorted(lot[20:22])


def test_photos_that_are_not_due_wait_and_hold_nobody_up(submit, claim):
    late = submit("cam1", 1, priority=9)
    with transaction() as session:
        session.execute(
            text("UPDATE inspections SET run_at = now() + interval '1 hour' WHERE id = ANY(:ids)"),
            {"ids": late},
        )
    due = submit("cam2", 1)
    assert claim(4) == due


def test_a_claim_costs_the_same_whatever_is_finished(submit, claim, db):
    """By the plan, not by the clock: only the partial index of the queue is read."""
    submit("cam1", 3)
    db.execute(
        text("""
        INSERT INTO inspections (id, organisation_id, product_id, model_version_id, image_key,
          image_sha256, image_bytes, media_type, width, height, status, source)
        SELECT 'old_' || number, organisation_id, product_id, model_version_id, 'k', 's', 1,
          'image/png', 900, 900, 'canceled', source
        FROM inspections, generate_series(1, 20000) AS number WHERE id = (
          SELECT min(id) FROM inspections)
        """)
    )
    db.commit()
    db.execute(text("ANALYZE inspections"))
    from shared.scheduling import _TURNS

    plan = "\n".join(
        row[0]
        for row in db.execute(
            text("EXPLAIN " + _TURNS.text),
            {"limit": 8, "candidates": 32, "after": "", "now": None},
        )
    )
    assert "ix_inspections_queue" in plan
    assert "Seq Scan on inspections" not in plan
    assert len(claim(8)) == 3
