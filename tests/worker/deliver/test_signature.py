"""Signatures, checked by the independent `standardwebhooks` package."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from worker.deliver import signature

OLD = "whsec_" + base64.b64encode(b"o" * 32).decode()
NEW = "whsec_" + base64.b64encode(b"n" * 32).decode()
BODY = '{"type":"inspection.completed","lot":"Größe 7"}'.encode()


def signed(*secrets, at=None):
    return signature.headers("msg_1", at or datetime.now(UTC), BODY, secrets)


def test_a_receiver_with_the_secret_verifies_it():
    assert Webhook(NEW).verify(BODY, signed(NEW))["lot"] == "Größe 7"


def test_during_a_rotation_either_secret_verifies_it():
    headers = signed(NEW, OLD)

    for secret in (OLD, NEW):
        Webhook(secret).verify(BODY, headers)


@pytest.mark.parametrize("change", ["body", "id", "timestamp", "secret", "age"])
def test_whatever_is_changed_is_noticed(change):
    headers, body, secret = signed(NEW), BODY, NEW
    if change == "body":
        body = BODY.replace(b"7", b"8")
    elif change == "id":
        headers["webhook-id"] = "msg_2"
    elif change == "timestamp":
        headers["webhook-timestamp"] = str(int(headers["webhook-timestamp"]) + 1)
    elif change == "secret":
        secret = OLD
    else:
        headers = signed(NEW, at=datetime.now(UTC) - timedelta(minutes=6))

    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body, headers)


def test_it_is_the_signature_of_the_specification():
    """The example of the `standardwebhooks` reference implementation."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    at = datetime.fromtimestamp(1614265330, UTC)

    headers = signature.headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}', [secret]
    )

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
