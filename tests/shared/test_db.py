import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from shared.db import transaction


def test_an_error_of_the_database_does_not_say_what_the_statement_was_given(services):
    """Errors are logged, and statements are given the secrets of webhooks."""
    with pytest.raises(DBAPIError) as told, transaction() as session:
        session.execute(text("SELECT 1 / 0 WHERE :secret <> ''"), {"secret": "whsec_dGhpcw=="})

    assert "division by zero" in str(told.value)
    assert "whsec_dGhpcw==" not in str(told.value)
