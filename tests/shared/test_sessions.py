"""Who logged in to the pages, and when that ends."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from shared import keys, sessions
from shared.db import transaction
from shared.errors import Unauthenticated
from shared.tables import ApiKey, Scope, WebSession


@pytest.fixture
def new_key(organisation) -> Callable[..., tuple[str, str]]:
    """Id of a key, and the key in full."""

    def make(*scopes, name="Anna"):
        with transaction() as session:
            row, key = keys.create_key(
                session,
                organisation_id=organisation,
                name=name,
                scopes=frozenset(scopes),
                actor="test",
            )
            return row.id, key

    return make


def log_in(key):
    with transaction() as session:
        return sessions.log_in(session, key)


def find(token):
    with transaction() as session:
        return sessions.find(session, token)


def let_time_pass(duration):
    with transaction() as session:
        session.execute(update(WebSession).values(expires_at=WebSession.expires_at - duration))


def test_whoever_logs_in_is_who_the_key_says(new_key, organisation):
    id_, key = new_key(Scope.REVIEW)
    visitor = find(log_in(key))

    assert (visitor.caller.key_id, visitor.caller.organisation_id) == (id_, organisation)
    assert visitor.caller.scopes == {Scope.REVIEW}
    assert visitor.name == "Anna"


def test_the_table_holds_neither_key_nor_token(db, new_key):
    _, key = new_key()
    token = log_in(key)

    (row,) = db.scalars(select(WebSession)).all()
    assert token not in str(vars(row))
    assert key not in str(vars(row))


def test_two_sessions_of_one_key_are_two(new_key):
    _, key = new_key()
    first, second = log_in(key), log_in(key)
    with transaction() as session:
        sessions.log_out(session, first)

    assert find(second)
    with pytest.raises(Unauthenticated):
        find(first)


@pytest.mark.parametrize("key", ["", "ds_unknown", "ds_00000000_" + "x" * 43])
def test_without_a_good_key_nobody_logs_in(db, organisation, key):
    with pytest.raises(Unauthenticated):
        log_in(key)
    assert db.scalars(select(WebSession)).all() == []


@pytest.mark.parametrize("token", ["", "guessed", "\udcff", "ä" * 5000])
def test_a_made_up_token_is_nobody_s(organisation, token):
    with pytest.raises(Unauthenticated):
        find(token)


def test_a_session_ends_after_twelve_hours(new_key):
    token = log_in(new_key()[1])
    let_time_pass(timedelta(hours=11, minutes=59))
    assert find(token)

    let_time_pass(timedelta(minutes=1, seconds=1))
    with pytest.raises(Unauthenticated):
        find(token)


def test_a_session_ends_when_its_key_is_revoked(new_key, organisation):
    id_, key = new_key()
    token = log_in(key)
    with transaction() as session:
        keys.revoke_key(session, organisation_id=organisation, key_id=id_, actor="test")

    with pytest.raises(Unauthenticated):
        find(token)


def test_a_session_ends_when_its_key_expires(new_key):
    token = log_in(new_key()[1])
    with transaction() as session:
        session.execute(update(ApiKey).values(expires_at=func.now() - timedelta(seconds=1)))

    with pytest.raises(Unauthenticated):
        find(token)


def test_only_a_page_of_the_session_can_send_its_word_back():
    word = sessions.csrf_of("token")

    assert sessions.is_from_own_page("token", word)
    for sent in ("", word[:-1], sessions.csrf_of("another"), "ä", "\udcff"):
        assert not sessions.is_from_own_page("token", sent)


def test_ended_sessions_are_forgotten_and_others_are_not(db, new_key):
    _, key = new_key()
    log_in(key)
    let_time_pass(timedelta(hours=13))
    token = log_in(key)
    with transaction() as session:
        sessions.forget_old(session)

    assert len(db.scalars(select(WebSession)).all()) == 1
    assert find(token)
