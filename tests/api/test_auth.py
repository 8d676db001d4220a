"""Keys that this process remembers for a moment."""

from sqlalchemy import func, update

from api import auth
from shared.db import transaction
from shared.tables import ApiKey


def test_a_key_that_was_revoked_is_refused_once_it_is_no_longer_remembered(app, new_key):
    key = new_key()
    headers = {"X-API-Key": key}
    assert app.get("/v1/products", headers=headers).status_code == 200
    with transaction() as session:
        session.execute(update(ApiKey).values(revoked_at=func.now()))
    remembered = auth._remembered
    assert 0 < remembered.ttl <= 2
    remembered.expire(time=remembered.timer() + remembered.ttl)
    assert app.get("/v1/products", headers=headers).status_code == 401


def test_a_wrong_secret_gains_nothing_from_a_right_one_before_it(app, new_key):
    key = new_key()
    assert app.get("/v1/products", headers={"X-API-Key": key}).status_code == 200
    assert app.get("/v1/products", headers={"X-API-Key": key[:-1] + "!"}).status_code == 401
    assert app.get("/v1/products", headers={"X-API-Key": key + "A"}).status_code == 401
