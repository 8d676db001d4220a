"""The first page: what it says of the photos that it takes."""

import pytest

from shared.settings import get_settings


def test_it_takes_photos_of_ten_megabytes(admin):
    assert "JPEG or PNG, 10 MB at most" in admin.get("/").text


@pytest.fixture
def takes_smaller_ones(services, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("DEFECTSCOPE_MAX_UPLOAD_BYTES", "2621440")
        yield
    get_settings.cache_clear()


@pytest.mark.usefixtures("takes_smaller_ones")
def test_it_says_so_where_the_operator_wants_smaller_ones(admin):
    text = admin.get("/").text

    assert "JPEG or PNG, 2.5 MB at most" in text
    assert 'data-most-bytes="2621440" data-most="2.5 MB"' in text
