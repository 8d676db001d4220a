import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import DBAPIError

from shared import audit, products, shadows
from shared.audit import Action
from shared.db import transaction
from shared.tables import AuditEntry


def entries(organisation):
    with transaction() as session:
        rows, _ = audit.page(session, organisation_id=organisation, page_size=100)
    return [(row.action, row.subject, row.actor) for row in reversed(rows)]


def test_what_happens_to_versions_is_noted_with_who_did_it(organisation, make_manifest):
    named = {"organisation_id": organisation, "name": "bottle", "actor": "key_1"}
    with transaction() as session:
        products.publish(
            session,
            organisation_id=organisation,
            manifest=make_manifest("bottle", seed=2),
            is_stored=lambda _: True,
            actor="key_1",
        )
        shadows.start(session, version=2, **named)
        shadows.stop(session, **named)
        shadows.stop(session, **named)
        products.activate(session, version=2, **named)
        products.activate(session, version=2, **named)
        products.roll_back(session, **named)

    assert entries(organisation) == [
        (Action.VERSION_PUBLISHED, "bottle@1", "test"),
        (Action.VERSION_ACTIVATED, "bottle@1", "test"),
        (Action.VERSION_PUBLISHED, "bottle@2", "key_1"),
        (Action.SHADOW_STARTED, "bottle@2", "key_1"),
        (Action.SHADOW_STOPPED, "bottle@2", "key_1"),
        (Action.VERSION_ACTIVATED, "bottle@2", "key_1"),
        (Action.VERSION_ROLLED_BACK, "bottle@1", "key_1"),
    ]


def test_a_change_that_is_rolled_back_leaves_no_entry(organisation, make_manifest):
    before = entries(organisation)
    with transaction() as session:
        products.publish(
            session,
            organisation_id=organisation,
            manifest=make_manifest("bottle", seed=2),
            is_stored=lambda _: True,
            actor="key_1",
        )
        session.rollback()

    assert entries(organisation) == before


@pytest.mark.parametrize("statement", [update(AuditEntry).values(actor="x"), delete(AuditEntry)])
def test_the_database_refuses_to_rewrite_it(organisation, statement):
    with pytest.raises(DBAPIError, match="only appended to"), transaction() as session:
        session.execute(statement)

    assert entries(organisation)
