"""`defectscope export` against a service that answers as the API does."""

import copy
import hashlib
import json
from urllib.parse import parse_qs, urlsplit

import cv2
import httpx
import numpy as np
import pytest

from api.client import DefectScope
from deploy.export import export
from deploy.terminal import CommandError
from shared.inspection_document import INSPECTION_EXAMPLE
from worker.train.dataset import read_dataset

LEFT_HALF = [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]


class Service:
    """Holds inspections with a decision each."""

    def __init__(self):
        self.documents = {}
        self.photos = {}
        self.fetched = []

    def decide(self, number, verdict, *, defect_type=None, region=None, **image):
        id_ = f"insp_{number:026d}"
        rng = np.random.default_rng(number)
        data = cv2.imencode(".png", rng.integers(0, 255, (130, 140, 3), np.uint8))[1].tobytes()
        document = copy.deepcopy(INSPECTION_EXAMPLE)
        document["id"] = id_
        document["image"] |= {
            "sha256": "sha256:" + hashlib.sha256(data).hexdigest(),
            "media_type": "image/png",
            "width": 140,
            "height": 130,
            **image,
        }
        document["review"]["decision"] = {
            "id": f"dec_{number:026d}",
            "reviewer": "key_one",
            "verdict": verdict,
            "defect_type": defect_type,
            "region": region,
            "comment": "",
            "at": "2026-11-24T08:00:00Z",
        }
        self.documents[id_], self.photos[id_] = document, data
        return id_

    def __call__(self, request):
        parts = urlsplit(str(request.url))
        if parts.path == "/v1/inspections":
            assert parse_qs(parts.query)["verdict_source"] == ["person"]
            page = {"inspections": list(self.documents.values()), "next_page_token": ""}
            return httpx.Response(200, json=page)
        id_ = parts.path.split("/")[3]
        self.fetched.append(id_)
        return httpx.Response(200, content=self.photos[id_])


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def run(service, tmp_path):
    client = DefectScope("http://test", "key", transport=httpx.MockTransport(service))

    def run():
        return export(client, tmp_path / "out", product="bottle")

    yield run
    client.close()


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_decided_parts_become_a_data_set_with_masks_and_decisions(service, run, tmp_path):
    good = service.decide(1, "good")
    broken = service.decide(2, "defective", defect_type="broken_small", region=LEFT_HALF)
    untyped = service.decide(3, "defective")

    exported = run()

    out = tmp_path / "out"
    assert files(out) == [
        "decisions.ndjson",
        f"ground_truth/broken_small/{broken}_mask.png",
        f"train/broken_small/{broken}.png",
        f"train/good/{good}.png",
        f"train/other/{untyped}.png",
    ]
    assert exported.labels == {"good": 1, "broken_small": 1, "other": 1}
    mask = cv2.imread(str(out / f"ground_truth/broken_small/{broken}_mask.png"), 0)
    assert mask.shape == (130, 140)
    assert (mask[:, :69] == 255).all()
    assert (mask[:, 71:] == 0).all()
    lines = [json.loads(line) for line in (out / "decisions.ndjson").read_text().splitlines()]
    assert [line["id"] for line in lines] == [good, broken, untyped]
    assert lines[1]["decision"]["defect_type"] == "broken_small"
    assert lines[1]["file"] == f"train/broken_small/{broken}.png"


def test_a_photo_that_is_no_longer_kept_stays_under_the_label_that_holds(service, run, tmp_path):
    """Decided anew since it was fetched, it would teach that its defect is good."""
    kept = service.decide(1, "good")
    service.decide(2, "good")
    run()
    service.decide(1, "good", url=None)
    service.decide(2, "defective", url=None)

    exported = run()

    assert exported.without_picture == 2
    assert files(tmp_path / "out") == ["decisions.ndjson", f"train/good/{kept}.png"]


def test_training_reads_it(service, run, tmp_path):
    for number in range(12):
        service.decide(number, "good")
    service.decide(20, "defective", defect_type="broken_large")

    run()

    dataset = read_dataset(tmp_path / "out", seed=0)
    assert [photo.label for photo in dataset.trained_on] == ["good"] * 12 + ["broken_large"]


def test_run_again_it_fetches_what_is_new_and_follows_what_was_decided_anew(service, run, tmp_path):
    first = service.decide(1, "defective", defect_type="broken_large", region=LEFT_HALF)
    run()
    service.decide(1, "good")
    second = service.decide(2, "good")
    service.fetched.clear()

    run()

    assert files(tmp_path / "out") == [
        "decisions.ndjson",
        f"train/good/{first}.png",
        f"train/good/{second}.png",
    ]
    # An empty folder of a type of defect would be refused by a training.
    assert [folder.name for folder in (tmp_path / "out" / "train").iterdir()] == ["good"]
    service.fetched.clear()
    run()
    assert service.fetched == []


def test_what_was_decided_anew_is_told_of_a_photo_that_is_no_longer_kept(service, run, tmp_path):
    id_ = service.decide(1, "defective", region=LEFT_HALF)
    run()
    service.decide(1, "defective", url=None)

    run()

    (line,) = (tmp_path / "out" / "decisions.ndjson").read_text().splitlines()
    assert json.loads(line)["decision"]["region"] is None
    assert files(tmp_path / "out") == ["decisions.ndjson", f"train/other/{id_}.png"]


def test_an_export_of_other_days_adds_to_the_decisions(service, run, tmp_path):
    first = service.decide(1, "good")
    gone = service.decide(2, "good")
    doubted = service.decide(3, "good")
    run()
    del service.documents[first], service.documents[gone]  # not of the days that are asked for
    next((tmp_path / "out").rglob(f"{gone}.png")).unlink()
    service.decide(3, "undecidable")
    later = service.decide(4, "defective")

    run()

    lines = (tmp_path / "out" / "decisions.ndjson").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [first, later]
    assert doubted not in "".join(lines)


def test_decisions_that_we_have_not_written_are_not_overwritten(service, run, tmp_path):
    service.decide(1, "good")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "decisions.ndjson").write_text("mine\n")

    with pytest.raises(CommandError, match=r"decisions\.ndjson is not what"):
        run()

    assert files(tmp_path / "out") == ["decisions.ndjson"]


def test_what_nobody_could_tell_and_what_is_no_longer_kept_is_counted_and_left_out(
    service, run, tmp_path
):
    service.decide(1, "undecidable")
    service.decide(2, "good", url=None)

    exported = run()

    assert (exported.undecidable, exported.without_picture) == (1, 1)
    assert files(tmp_path / "out") == ["decisions.ndjson"]


def test_a_type_that_is_no_name_of_a_folder_is_other(service, run, tmp_path):
    id_ = service.decide(1, "defective", defect_type="../../escape")

    run()

    assert files(tmp_path / "out") == ["decisions.ndjson", f"train/other/{id_}.png"]
    assert not (tmp_path.parent / "escape").exists()


def test_a_photo_with_another_digest_is_refused(service, run, tmp_path):
    id_ = service.decide(1, "good")
    service.photos[id_] = b"another photo"

    with pytest.raises(CommandError, match="digest"):
        run()

    assert files(tmp_path / "out") == []
