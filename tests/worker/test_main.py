"""The worker as a process, with the bundled model."""

import io
import os
import subprocess
import sys
from hashlib import sha256

import pytest
from PIL import Image
from sqlalchemy import select

from deploy.bootstrap import bootstrap
from shared import accepting
from shared.db import transaction
from shared.settings import get_settings
from shared.storage import storage
from shared.storage.keys import image_key
from shared.tables import Inspection, Product, Status


@pytest.fixture
def worker_without_redis(services, free_port, tmp_path):
    bootstrap(get_settings())
    away = {"DEFECTSCOPE_REDIS_URL": f"redis://127.0.0.1:{free_port}/0"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker"], env=os.environ | away, stdout=log, stderr=log
        )
    yield process
    process.kill()
    process.wait()


def test_a_worker_that_starts_while_redis_is_away_judges_what_is_queued(
    db, worker_without_redis, wait_until
):
    id_ = accepting.new_inspection_id()
    file = io.BytesIO()
    Image.new("RGB", (300, 300), (120, 120, 120)).save(file, "PNG")
    product = db.scalars(select(Product)).one()
    key = image_key(product.organisation_id, id_, "image/png", product.created_at)
    storage().put(key, file.getvalue(), "image/png")
    digest = sha256(file.getvalue()).hexdigest()
    image = accepting.StoredImage(key, digest, len(file.getvalue()), "image/png", 300, 300)
    with transaction() as session:
        accepting.accept(
            session,
            organisation_id=product.organisation_id,
            product=product.name,
            photo=accepting.Submitted(id_, image, accepting.Part(), 5),
            actor="test",
        )

    def is_judged():
        db.expire_all()
        assert worker_without_redis.poll() is None
        return db.get_one(Inspection, id_).status is Status.SUCCEEDED

    wait_until(is_judged, "the verdict", seconds=120)
