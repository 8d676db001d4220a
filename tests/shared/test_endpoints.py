"""The endpoints of an organisation."""

import pytest

from shared import endpoints
from shared.errors import InvalidInput


def test_there_is_a_bound_on_endpoints(endpoint, monkeypatch):
    monkeypatch.setattr(endpoints, "MOST_ENDPOINTS", 2)
    endpoint()
    endpoint()

    with pytest.raises(InvalidInput, match="delete one"):
        endpoint()
