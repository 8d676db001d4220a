"""Queries that are asked all the time read an index, however much has been finished.

By the plan of the very statement that is sent, not by the clock.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import event, text

from shared import batches, deliveries, delivering, inspection_queries, retention
from shared.db import engine, transaction
from shared.inspection_queries import Filters
from shared.webhook_tables import WebhookEndpoint

MANY = 20_000


@pytest.fixture
def many(db, queued):
    """So many finished inspections beside a queued one, and as many deliveries that arrived."""
    queued(5)
    fill = {
        "inspections": """
        INSERT INTO inspections (id, organisation_id, product_id, model_version_id, image_key,
          image_sha256, image_bytes, media_type, width, height, status, serial, lot, created_at,
          finished_at, batch_id)
        SELECT 'insp_' || lpad(n::text, 26, '0'), organisation_id, product_id, model_version_id,
          'k', 's', 1, 'image/png', 900, 900, 'canceled', 'SN' || n, 'L' || n / 100,
          now() - n * interval '1 minute', now() - n * interval '1 minute',
          CASE WHEN n % 2000 = 0 THEN 'batch_1' END
        FROM inspections, generate_series(1, :rows) AS n
        """,
        "webhook_endpoints": """
        INSERT INTO webhook_endpoints (id, organisation_id, url, events, secret, status)
        SELECT 'whe_' || n, 'org_plant', 'https://mes.example', '{}', '', 'active'
        FROM generate_series(0, 99) AS n
        """,
        "webhook_deliveries": """
        INSERT INTO webhook_deliveries (id, organisation_id, endpoint_id, inspection_id, event,
          status, finished_at)
        SELECT 'msg_' || lpad(n::text, 26, '0'), 'org_plant', 'whe_' || n % 100,
          'insp_' || lpad(n::text, 26, '0'), 'inspection.completed',
          CASE WHEN n % 1001 = 0 THEN 'pending' ELSE 'delivered' END,
          CASE WHEN n % 1001 > 0 THEN now() - n * interval '1 minute' END
        FROM generate_series(1, :rows) AS n
        """,
        "webhook_attempts": """
        INSERT INTO webhook_attempts (delivery_id, at, latency_ms, reply)
        SELECT id, coalesce(finished_at, now()), 5, '' FROM webhook_deliveries
        """,
    }
    db.execute(text("INSERT INTO batches (id, organisation_id) VALUES ('batch_1', 'org_plant')"))
    for table, statement in fill.items():
        db.execute(text(statement), {"rows": MANY} if ":rows" in statement else {})
        db.execute(text(f"ANALYZE {table}"))
    db.commit()


@contextmanager
def plans() -> Iterator[list[str]]:
    """The plan of each statement that is sent meanwhile, made before it runs."""
    seen: list[str] = []

    def explain(_connection, cursor, statement, parameters, _context, _is_many):
        if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "WITH")):
            with cursor.connection.cursor() as other:
                other.execute("EXPLAIN " + statement, parameters)
                seen.append("\n".join(row[0] for row in other))

    event.listen(engine(), "before_cursor_execute", explain)
    try:
        yield seen
    finally:
        event.remove(engine(), "before_cursor_execute", explain)


def plan_of(ask, *arguments, **named):
    with plans() as seen, transaction() as session:
        ask(session, *arguments, **named)
    return "\n".join(seen)


def assert_reads(plan, index, *, never):
    assert index in plan, plan
    assert f"Seq Scan on {never}" not in plan, plan


def test_a_page_of_a_list_reads_an_index(many, subtests):
    with transaction() as session:
        _, later = inspection_queries.page(
            session, organisation_id="org_plant", filters=Filters(), page_size=50
        )
    for filters, page_token, index in (
        (Filters(), "", "ix_inspections_page"),
        (Filters(), later, "ix_inspections_page"),
        (Filters(serial="SN7"), "", "ix_inspections_serial"),
        (Filters(lot="L7"), "", "ix_inspections_lot"),
        (Filters(batch="batch_1"), "", "ix_inspections_batch"),
    ):
        with subtests.test(filters=filters, page_token=page_token):
            plan = plan_of(
                inspection_queries.page,
                organisation_id="org_plant",
                filters=filters,
                page_size=50,
                page_token=page_token,
            )

            assert_reads(plan, index, never="inspections")


def test_a_page_of_a_lot_is_in_the_index_in_order_however_large_the_lot(db, many):
    """Otherwise the planner bets on meeting the lot soon, and reads all that came after it."""
    db.execute(text("UPDATE inspections SET lot = 'L' || right(serial, 1)"))
    db.execute(text("ANALYZE inspections"))
    db.commit()

    plan = plan_of(
        inspection_queries.page,
        organisation_id="org_plant",
        filters=Filters(lot="no such lot"),
        page_size=50,
    )

    assert_reads(plan, "ix_inspections_lot", never="inspections")
    assert "Sort" not in plan


def test_pictures_that_have_been_kept_for_long_enough_are_found_by_an_index(many, organisation):
    with transaction() as session:
        retention.set_retention(
            session, organisation_id=organisation, name="bottle", days=13, actor="key_1"
        )

    plan = plan_of(retention.find_expired, limit=100)

    assert_reads(plan, "ix_inspections_retention", never="inspections")
    assert "Sort" not in plan


def test_what_is_due_to_an_endpoint_is_found_among_all_that_has_arrived(many):
    with transaction() as session:
        endpoint, *_ = delivering.lease(session, limit=10, duration=timedelta(seconds=6))
        assert delivering.due(session, endpoint, limit=40)

    plan = plan_of(delivering.due, endpoint, limit=40)

    assert_reads(plan, "ix_webhook_deliveries_due", never="webhook_deliveries")
    assert "Seq Scan on inspections" not in plan


def test_whether_anything_is_due_is_found_in_the_same_index(many):
    plan = plan_of(delivering.lease, limit=10, duration=timedelta(seconds=6))

    assert_reads(plan, "ix_webhook_deliveries_due", never="webhook_deliveries")


def test_the_log_of_an_endpoint_is_read_page_by_page(many):
    endpoint = WebhookEndpoint(id="whe_1")
    plan = plan_of(deliveries.page, endpoint, status=None, page_size=50, page_token="")
    assert_reads(plan, "ix_webhook_deliveries_page", never="webhook_deliveries")

    plan = plan_of(deliveries.attempts_of, ["msg_" + "0" * 26])
    assert_reads(plan, "ix_webhook_attempts_delivery_id_id", never="webhook_attempts")


def test_what_is_forgotten_is_found_by_its_age(many):
    # Few, as a thousand are beside a table that is really large.
    plan = plan_of(deliveries.forget_old, days=13, limit=10)
    assert_reads(plan, "ix_webhook_deliveries_finished", never="webhook_deliveries")
    assert_reads(plan, "ix_webhook_attempts_at", never="webhook_attempts")


def test_a_batch_is_counted_by_its_own_photos(many):
    plan = plan_of(batches.summarise, "batch_1")

    assert_reads(plan, "ix_inspections_batch", never="inspections")
