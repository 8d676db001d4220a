"""`defectscope up` as a person uses it: this file speaks HTTP and imports nothing of ours."""

import io
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

COMMAND = str(Path(sys.executable).parent / "defectscope")
BUNDLE = Path(__file__).parents[2] / "worker" / "bundles" / "bottle"
SCORES = (
    ("classifier", "defect_probability"),
    ("autoencoder", "mse"),
    ("autoencoder", "anomaly_score"),
)
SAMPLES = sorted((Path(__file__).parents[2] / "shared" / "samples").iterdir())


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    # People call their folders as they like: all of it goes into addresses and configurations.
    folder = tmp_path_factory.mktemp("R&D + 100% #1?")
    # And somebody killed the first start while PostgreSQL was being set up.
    (folder / "postgres.unfinished").touch()
    (folder / "postgres").mkdir()
    (folder / "postgres" / "PG_VERSION").write_text("16\n")
    return folder


@pytest.fixture(scope="module")
def stack(data_dir, new_stack):
    stack = new_stack(data_dir)
    yield stack
    if stack.process.poll() is None:
        stack.stop()


def test_a_photo_gets_a_verdict_with_overlay_and_anomaly_map(stack):
    answer = stack.http.post(
        "/v1/inspections",
        files={"file": ("part.png", SAMPLES[0].read_bytes())},
        data={"product": "bottle", "serial": "SN1"},
        headers={"Prefer": "wait=30"},
    )

    assert answer.status_code == 200
    inspection = answer.json()
    assert inspection["status"] == "succeeded"
    assert inspection["verdict"] in {"good", "defective", "undecidable"}
    assert 0 <= inspection["classifier"]["defect_probability"] <= 1
    assert set(inspection["timings_ms"]) == {
        *("queued", "fetch", "decode", "infer", "record", "total")
    }
    for kind in ("overlay_url", "anomaly_map_url"):
        picture = stack.http.get(inspection[kind])
        assert Image.open(io.BytesIO(picture.content)).size == (256, 256)
    assert stack.http.get(inspection["image"]["url"]).content == SAMPLES[0].read_bytes()


def test_predict_answers_with_the_verdict(stack):
    answer = stack.http.post("/predict", files={"file": ("x.png", SAMPLES[0].read_bytes())})

    assert answer.status_code == 200
    assert answer.json()["verdict"] in {"Good", "Defective", "Undecidable"}


def test_submit_prints_a_document_a_line_and_its_exit_code_tells_the_outcome(stack):
    done = stack.run("submit", str(SAMPLES[0].parent), "--lot", "L7", "--json")

    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(document["path"]) for document in documents] == SAMPLES
    assert {document["part"]["lot"] for document in documents} == {"L7"}
    all_pass = all(document["disposition"] == "pass" for document in documents)
    assert done.returncode == (0 if all_pass else 1)


def test_the_service_says_what_predict_says(stack):
    folder = SAMPLES[0].parent
    submitted, predicted = (
        [json.loads(line) for line in stack.run(*command, "--json").stdout.splitlines()]
        for command in (("submit", str(folder)), ("predict", str(BUNDLE), str(folder)))
    )

    assert [document["path"] for document in submitted] == [
        document["path"] for document in predicted
    ]
    for said, expected in zip(submitted, predicted, strict=True):
        for what in ("digest", "engine"):
            assert said["model"][what] == expected["model"][what]
        assert said["verdict"] == expected["verdict"]
        for model, score in SCORES:
            assert said[model][score] == pytest.approx(expected[model][score], rel=1e-4, abs=1e-4)


def test_submitting_nonsense_is_an_error_that_says_so(stack, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")

    done = stack.run("submit", str(tmp_path / "notes.png"), "--json")

    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "not_an_image"


def test_no_log_holds_a_secret(stack, data_dir):
    stack.submit(SAMPLES[0])
    stack.http.get("/v1/inspections", headers={"Authorization": "Bearer " + stack.key[:-1]})
    new_key = stack.http.post("/v1/keys", json={"name": "line", "scopes": ["read"]}).json()
    stack.http.post("/v1/keys", content=json.dumps({"name": stack.key, "scopes": 7}))
    hook = stack.http.post("/v1/webhooks", json={"url": "https://93.184.216.34/hook"}).json()
    stack.http.post(f"/v1/webhooks/{hook['id']}/test")
    rotated = stack.http.post(f"/v1/webhooks/{hook['id']}/rotate").json()
    session = stack.http.post("/login", data={"key": new_key["key"]}).cookies["defectscope"]
    # Where somebody puts a key by mistake.
    for path in (f"/v1/inspections?api_key={stack.key}", f"/v1/inspections/{stack.key}"):
        stack.http.get(path)
    secrets = {stack.key.split("_", 2)[2], new_key["key"].split("_", 2)[2], session}
    secrets |= {hook["secret"].removeprefix("whsec_"), rotated["secret"].removeprefix("whsec_")}
    for child in stack.children():
        url = child.environ().get("DEFECTSCOPE_REDIS_URL", "")
        secrets |= {urlsplit(url).password} - {None}
    logs = [path for path in (data_dir / "logs").iterdir() if path.stat().st_size]

    assert len(secrets) == 6  # of two keys, a webhook before and after, a session, and Redis
    assert logs
    for path in logs:
        text = path.read_text(errors="replace")
        assert not [secret for secret in secrets if secret in text], path.name


def test_a_worker_loads_a_new_version_before_a_photo_asks_for_it(stack, data_dir, wait_until):
    found = stack.http.get("/v1/products/bottle/thresholds")
    thresholds = found.json()["thresholds"]
    changed = stack.http.put(
        "/v1/products/bottle/thresholds",
        json=thresholds | {"anomaly_score": thresholds["anomaly_score"] + 0.001},
        headers={"If-Match": found.headers["etag"]},
    )
    assert changed.status_code == 200

    def loaded():
        log = (data_dir / "logs" / "worker.log").read_text()
        return [line for line in log.splitlines() if "model_loaded" in line]

    wait_until(lambda: len(loaded()) == 2, "the second version")


def test_a_second_stack_on_the_same_folder_is_refused(stack):
    second = subprocess.run(
        [COMMAND, "up", "--port", "0", "--data-dir", str(stack.data_dir)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert second.returncode == 2
    assert "Another `defectscope up`" in second.stderr


def test_results_are_still_there_after_a_restart_and_ctrl_c_leaves_nothing_running(
    stack, data_dir, new_stack
):
    id_ = stack.submit(SAMPLES[0], serial="before").json()["id"]
    verdict = stack.http.get(f"/v1/inspections/{id_}?wait=30").json()["verdict"]

    assert stack.stop() == []
    again = new_stack(data_dir)
    try:
        inspection = again.http.get(f"/v1/inspections/{id_}").json()
        assert (inspection["verdict"], inspection["part"]["serial"]) == (verdict, "before")
        assert again.http.get(inspection["overlay_url"].replace(stack.url, again.url)).content
    finally:
        # Even kill -9 leaves nothing running.
        assert again.stop(signal.SIGKILL) == []


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [COMMAND, "up", "--port", str(port), "--data-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 2
    assert f"Port {port}" in done.stderr
    assert "--port" in done.stderr
