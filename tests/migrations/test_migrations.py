import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, inspect, text

from migrations import migrate
from shared.errors import DatabaseUnavailable
from shared.tables import Table


@pytest.fixture
def engine(fresh_database):
    engine = create_engine(fresh_database)
    yield engine
    engine.dispose()


def tables(engine):
    return set(inspect(engine).get_table_names()) - {"alembic_version"}


def check_names(engine, table):
    return {constraint["name"] for constraint in inspect(engine).get_check_constraints(table)}


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


def test_of_two_that_start_at_once_one_finds_nothing_to_do(engine):
    with ThreadPoolExecutor(2) as starting:
        for one in [starting.submit(migrate.upgrade, engine) for _ in range(2)]:
            one.result(timeout=60)

    migrate.check(engine)


def test_check_constraints_are_in_the_database(engine):
    """Alembic does not compare them, so `check` alone would not notice."""
    migrate.upgrade(engine)

    names = check_names(engine, "inspections")

    assert {
        "ck_inspections_only_running_is_leased",
        "ck_inspections_success_has_a_verdict",
        "ck_inspections_status",
        "ck_inspections_verdict",
        "ck_inspections_disposition",
    } <= names
    assert {
        "ck_products_shadow_is_not_the_active_version",
        "ck_products_shadow_has_a_version_to_compare_with",
    } <= check_names(engine, "products")
    assert {
        "ck_shadow_results_failed_or_judged",
        "ck_shadow_results_verdict",
        "ck_shadow_results_active_verdict",
    } <= check_names(engine, "shadow_results")


def test_rows_of_the_first_release_survive_and_their_products_can_be_rolled_back(engine):
    """Written as SQL: what the tables looked like then is not what the code knows now."""
    migrate.upgrade(engine, "0001")
    with engine.begin() as connection:
        for statement in (
            "INSERT INTO organisations (id, name) VALUES ('org_1', 'plant')",
            "INSERT INTO products (id, organisation_id, name) VALUES"
            " ('prod_1', 'org_1', 'bottle'), ('prod_2', 'org_1', 'cable')",
            "INSERT INTO model_versions"
            " (id, product_id, version, digest, thresholds, manifest, published_by)"
            " VALUES ('mdl_1', 'prod_1', 1, 'sha256:1', '{}', '{}', 'key_1')",
            "UPDATE products SET active_version_id = 'mdl_1' WHERE id = 'prod_1'",
            "INSERT INTO inspections (id, organisation_id, product_id, model_version_id, image_key,"
            " image_sha256, image_bytes, media_type, width, height, status)"
            " VALUES ('insp_1', 'org_1', 'prod_1', 'mdl_1', 'k', '00', 1, 'image/png', 9, 9,"
            " 'queued')",
        ):
            connection.execute(text(statement))

    migrate.upgrade(engine)

    migrate.check(engine)
    with engine.connect() as connection:
        rows = connection.execute(
            text("SELECT product_id, model_version_id, previous_id, is_rollback FROM activations")
        )
        assert [tuple(row) for row in rows] == [("prod_1", "mdl_1", None, False)]
        products = connection.execute(
            text("SELECT active_version_id, shadow_version_id FROM products ORDER BY id")
        )
        assert [tuple(row) for row in products] == [("mdl_1", None), (None, None)]
        assert connection.scalar(text("SELECT status FROM inspections")) == "queued"


def test_a_migration_that_waits_for_a_lock_lets_the_service_work(engine, monkeypatch, caplog):
    monkeypatch.setattr(migrate, "_LOCK_WAIT", "100ms")
    monkeypatch.setattr(migrate, "_PAUSE_SECONDS", 0.1)
    migrate.upgrade(engine, "0005")
    migrating = threading.Thread(target=migrate.upgrade, args=(engine, "0006"))
    with engine.connect() as reading, engine.connect() as service:
        reading.execute(text("SELECT count(*) FROM inspections"))  # its lock is kept till the end
        with caplog.at_level(logging.WARNING, logger=migrate.__name__):
            migrating.start()
            while len(caplog.records) < 2:
                assert migrating.is_alive()
                service.execute(text("SET statement_timeout = '2s'"))
                service.execute(text("SELECT count(*) FROM inspections"))
                service.rollback()
        reading.rollback()
    migrating.join(30)

    assert not migrating.is_alive()
    migrate.upgrade(engine)
    migrate.check(engine)


def test_a_migration_that_never_gets_its_lock_says_what_to_do(engine, monkeypatch):
    monkeypatch.setattr(migrate, "_LOCK_WAIT", "50ms")
    monkeypatch.setattr(migrate, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(migrate, "_ATTEMPTS", 2)
    migrate.upgrade(engine, "0005")
    with engine.connect() as reading:
        reading.execute(text("SELECT count(*) FROM inspections"))

        with pytest.raises(DatabaseUnavailable, match="pg_stat_activity"):
            migrate.upgrade(engine)

    migrate.upgrade(engine)
    migrate.check(engine)


def test_an_index_is_built_beside_the_service_and_waits_for_who_writes(engine, monkeypatch):
    """Given up after a moment, it would be built over and over."""
    monkeypatch.setattr(migrate, "_LOCK_WAIT", "50ms")
    monkeypatch.setattr(migrate, "_ATTEMPTS", 1)
    migrate.upgrade(engine, "0006")
    migrating = threading.Thread(target=migrate.upgrade, args=(engine,))
    with engine.connect() as writing, engine.connect() as service:
        writing.execute(text("LOCK TABLE inspections IN ROW EXCLUSIVE MODE"))
        migrating.start()
        for _ in range(5):
            migrating.join(0.1)
            assert migrating.is_alive()
            service.execute(text("SET statement_timeout = '2s'"))
            service.execute(text("LOCK TABLE inspections IN ROW EXCLUSIVE MODE"))
            service.rollback()
        writing.rollback()
    migrating.join(30)

    assert not migrating.is_alive()
    migrate.check(engine)


def test_an_index_that_a_broken_off_migration_left_is_made_anew(engine):
    migrate.upgrade(engine, "0006")
    with engine.begin() as connection:
        connection.execute(
            text("CREATE INDEX ix_inspections_lot_new ON inspections (organisation_id, lot)")
        )

    migrate.upgrade(engine)

    migrate.check(engine)
