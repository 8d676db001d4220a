from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from shared import keys
from shared.db import transaction
from shared.errors import InvalidInput, NotFound, Unauthenticated
from shared.tables import ApiKey, Scope


def create(organisation, **changes):
    with transaction() as session:
        row, key = keys.create_key(
            session,
            organisation_id=organisation,
            name="line 2",
            scopes=frozenset({Scope.SUBMIT}),
            actor="test",
            **changes,
        )
        return row.id, key


def authenticate(key):
    with transaction() as session:
        return keys.authenticate(session, key)


def test_a_key_leads_to_its_organisation_and_scopes(organisation):
    id_, key = create(organisation)

    caller = authenticate(key)

    assert (caller.key_id, caller.organisation_id) == (id_, organisation)
    assert caller.may(Scope.SUBMIT)
    assert not caller.may(Scope.READ)


def test_the_secret_is_not_in_the_database(db, organisation):
    _, key = create(organisation)

    row = db.scalars(select(ApiKey)).one()

    secret = key.split("_", 2)[2]
    assert secret not in repr(vars(row))


def test_a_wrong_secret_is_refused(organisation):
    _, key = create(organisation)

    for wrong in (key[:-1], key[:-1] + ("x" if key[-1] != "x" else "y"), key.upper(), ""):
        with pytest.raises(Unauthenticated):
            authenticate(wrong)


def test_an_expired_key_is_refused(organisation):
    _, key = create(organisation, expires_at=datetime.now(UTC) - timedelta(seconds=1))

    with pytest.raises(Unauthenticated):
        authenticate(key)


def test_revoking_works_at_once(organisation):
    id_, key = create(organisation)
    with transaction() as session:
        keys.revoke_key(session, organisation_id=organisation, key_id=id_, actor="test")

    with pytest.raises(Unauthenticated):
        authenticate(key)


def test_nobody_revokes_the_key_of_another_organisation(organisation):
    id_, key = create(organisation)

    with pytest.raises(NotFound), transaction() as session:
        keys.revoke_key(session, organisation_id="org_x", key_id=id_, actor="test")

    assert authenticate(key).key_id == id_


def test_a_key_that_was_made_elsewhere_must_have_the_form(organisation):
    with pytest.raises(InvalidInput, match="ds_<id>_<secret>"):
        create(organisation, key="letmein")


def test_there_is_a_bound_on_keys_and_on_what_a_list_tells_of_revoked_ones(
    organisation, monkeypatch
):
    monkeypatch.setattr(keys, "MOST_KEYS", 2)
    ids = []
    for _ in range(4):
        ids.append(create(organisation)[0])
        with transaction() as session:
            keys.revoke_key(session, organisation_id=organisation, key_id=ids[-1], actor="test")
    ids += [create(organisation)[0] for _ in range(2)]

    with pytest.raises(InvalidInput, match="revoke one"):
        create(organisation)
    with transaction() as session:
        assert [row.id for row in keys.list_keys(session, organisation)] == ids[2:]
