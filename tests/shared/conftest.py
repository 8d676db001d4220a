"""Webhook endpoints, verdicts to tell them, and what a deliverer does with both."""

from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from shared import claiming, deliveries, delivering, endpoints, inspections
from shared.db import transaction
from shared.delivering import Attempt
from shared.endpoints import SUBSCRIBABLE, Filter
from shared.inspections import Failure, Recorded
from shared.verdicts import Disposition, Outcome, Scores, Verdict
from shared.webhook_tables import WebhookDelivery, WebhookEndpoint

LEASE = timedelta(seconds=30)


@pytest.fixture
def endpoint(organisation):
    def make(*, events=SUBSCRIBABLE, organisation_id=organisation, **filter_):
        with transaction() as session:
            return endpoints.create(
                session,
                organisation_id=organisation_id,
                url="https://mes.example/hook",
                events=events,
                filter_=Filter(**filter_),
                description="",
                actor="test",
            ).id

    return make


@pytest.fixture
def judge(queued):
    """Photos through the queue to a verdict, or to none; their ids."""

    def judge(count=1, *, disposition=Disposition.PASS, fails=False):
        queued(*[5] * count)
        with transaction() as session:
            batch = claiming.claim(session, limit=100, lease=LEASE, worker="worker:a")
            ids = [one.id for one in batch.inspections]
            if fails:
                failures = [Failure(id_, "unreadable_image", "Send it again.") for id_ in ids]
                inspections.fail(session, token=batch.token, failures=failures, worker="worker:a")
                return ids
            outcome = Outcome(Verdict.GOOD, disposition, (), False, False, True)
            results = [
                Recorded(id_, Scores(0.1, 0.001, 1.0, 10.0, ()), outcome, "cpu", "o", "a", [], {})
                for id_ in ids
            ]
            inspections.record(session, token=batch.token, results=results, worker="worker:a")
        return ids

    return judge


@dataclass(frozen=True)
class Outbox:
    """The rows of the deliveries, and the steps that a deliverer takes, each in a transaction."""

    db: Session
    organisation: str

    def written(self):
        self.db.expire_all()
        return list(self.db.scalars(select(WebhookDelivery).order_by(WebhookDelivery.id)))

    def row(self, id_, table=WebhookEndpoint):
        self.db.expire_all()
        return self.db.get_one(table, id_)

    def lease(self):
        with transaction() as session:
            return delivering.lease(session, limit=10, duration=LEASE)

    def due(self, leased):
        with transaction() as session:
            batch = delivering.due(session, leased, limit=100)
            return batch.messages if batch else []

    def secrets_of(self, leased):
        with transaction() as session:
            return delivering.due(session, leased, limit=1).secrets

    def attempt(self, delivery_id, status_code=200, **more):
        at = self.db.scalars(select(func.clock_timestamp())).one()
        delivery = select(WebhookDelivery.run_at).where(WebhookDelivery.id == delivery_id)
        run_at = self.db.scalar(delivery)
        return Attempt(delivery_id, run_at, at, latency_ms=3, status_code=status_code, **more)

    def settle(self, leased, *attempts, is_all=False):
        with transaction() as session:
            return delivering.settle(session, leased, attempts, duration=LEASE, is_all=is_all)

    def replay(self, endpoint_id, **which):
        with transaction() as session:
            row = endpoints.lock(
                session, organisation_id=self.organisation, endpoint_id=endpoint_id
            )
            return deliveries.replay(session, row, **which)

    def let_time_pass(self, duration):
        """All that lies in the future comes nearer."""
        with transaction() as session:
            session.execute(
                update(WebhookDelivery).values(run_at=WebhookDelivery.run_at - duration)
            )
            session.execute(
                update(WebhookEndpoint).values(
                    rests_until=WebhookEndpoint.rests_until - duration,
                    lease_until=WebhookEndpoint.lease_until - duration,
                    failing_since=WebhookEndpoint.failing_since - duration,
                )
            )


@pytest.fixture
def outbox(db, organisation):
    return Outbox(db, organisation)
