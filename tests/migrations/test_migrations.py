import pytest
from sqlalchemy import create_engine, inspect

from migrations import migrate
from shared.tables import Table


@pytest.fixture
def engine(fresh_database):
    engine = create_engine(fresh_database)
    yield engine
    engine.dispose()


def tables(engine):
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def test_migrations_make_exactly_the_tables_that_the_code_knows(engine):
    migrate.upgrade(engine)

    migrate.check(engine)
    assert tables(engine) == set(Table.metadata.tables)


def test_migrations_go_down_to_nothing_and_up_again(engine):
    migrate.upgrade(engine)
    migrate.downgrade(engine, "base")
    assert tables(engine) == set()

    migrate.upgrade(engine)
    assert tables(engine) == set(Table.metadata.tables)


def test_upgrading_twice_changes_nothing(engine):
    migrate.upgrade(engine)
    migrate.upgrade(engine)

    migrate.check(engine)


def test_check_constraints_are_in_the_database(engine):
    """Alembic does not compare them, so `check` alone would not notice."""
    migrate.upgrade(engine)

    names = {
        constraint["name"] for constraint in inspect(engine).get_check_constraints("inspections")
    }

    assert {
        "ck_inspections_only_running_is_leased",
        "ck_inspections_success_has_a_verdict",
        "ck_inspections_status",
        "ck_inspections_verdict",
        "ck_inspections_disposition",
    } <= names
