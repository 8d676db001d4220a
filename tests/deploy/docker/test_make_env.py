import stat
from pathlib import Path

import pytest

from deploy.docker.make_env import fill, fresh_secrets, main
from shared import keys

EXAMPLE = Path(__file__).parents[3] / ".env.example"


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / ".env.example").write_text(EXAMPLE.read_text())
    return tmp_path


def test_the_written_file_is_the_example_with_every_secret_filled_in(checkout):
    assert main(checkout) == 0

    before = EXAMPLE.read_text().splitlines()
    after = (checkout / ".env").read_text().splitlines()
    changed = [old for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [
        "POSTGRES_PASSWORD=",
        "REDIS_PASSWORD=",
        "DEFECTSCOPE_S3_SECRET_ACCESS_KEY=",
        "DEFECTSCOPE_ADMIN_KEY=",
    ]
    assert not [line for line in after if line.endswith("=") and not line.startswith("#")]


def test_only_its_owner_can_read_it(checkout):
    main(checkout)

    assert stat.S_IMODE((checkout / ".env").stat().st_mode) == 0o600


def test_a_file_that_is_there_is_never_touched(checkout, capsys):
    (checkout / ".env").write_text("POSTGRES_PASSWORD=of-a-database-full-of-verdicts\n")

    assert main(checkout) == 1

    assert (checkout / ".env").read_text().endswith("full-of-verdicts\n")
    assert "stays as it is" in capsys.readouterr().err


def test_the_admin_key_is_one_that_the_service_accepts(db):
    organisation = keys.first_organisation(db).id
    _, key = keys.create_key(
        db,
        organisation_id=organisation,
        name="first",
        scopes=frozenset(),
        actor="test",
        key=fresh_secrets()["DEFECTSCOPE_ADMIN_KEY"],
    )
    db.commit()

    assert keys.authenticate(db, key).organisation_id == organisation


def test_secrets_fit_into_an_url_as_they_are_and_differ_every_time():
    one, other = fresh_secrets(), fresh_secrets()

    assert all(value.replace("_", "").isalnum() for value in one.values())
    assert not set(one.values()) & set(other.values())


def test_an_empty_variable_that_nobody_fills_is_an_error():
    with pytest.raises(KeyError, match="NEW_SECRET"):
        fill("NEW_SECRET=\n", {})
