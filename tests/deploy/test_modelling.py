"""The modelling commands as they are typed, with the bundled model and its sample photos."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from shared.sample_photos import SAMPLES as FOLDER
from worker.train.sources import BUNDLES

SAMPLES = sorted(FOLDER.glob("*.jpg"))


def label_of(name: str) -> str:
    return name.removesuffix(".jpg").split("-", 2)[2].replace("-", "_")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The samples in MVTec layout."""
    data = tmp_path_factory.mktemp("data") / "bottle"
    (data / "train" / "good").mkdir(parents=True)
    for sample in SAMPLES:
        (data / "test" / label_of(sample.name)).mkdir(parents=True, exist_ok=True)
        shutil.copy(sample, data / "test" / label_of(sample.name))
    return data


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def evaluated(folder, tmp_path_factory):
    report = tmp_path_factory.mktemp("reports") / "bottle"
    return report, *run("evaluate", BUNDLES / "bottle", folder, "--report", report)


def test_evaluate_prints_a_table_and_writes_page_and_json(evaluated):
    report, code, stdout, stderr = evaluated
    assert code == 0
    assert "classifier auroc" in stdout
    assert str(report) in stderr.replace("\n", "")
    document = json.loads((report / "report.json").read_text())
    assert document["images"] == len(SAMPLES)
    page = (report / "index.html").read_text()
    assert "<img" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_evaluate_and_predict_give_the_same_scores(evaluated, folder):
    report = evaluated[0]
    rows = json.loads((report / "report.json").read_text())["photos"]
    evaluated_as = {row["path"].rsplit("/", 1)[-1]: row for row in rows}
    code, stdout, _ = run("predict", BUNDLES / "bottle", folder / "test", "--json")
    predicted = [json.loads(line) for line in stdout.splitlines()]
    assert code == 1  # something is defective or held
    assert len(predicted) == len(SAMPLES)
    for document in predicted:
        row = evaluated_as[document["path"].rsplit("/", 1)[-1]]
        assert document["verdict"] == row["verdict"]
        assert document["classifier"]["defect_probability"] == pytest.approx(
            row["defect_probability"], abs=1e-4
        )
        assert document["autoencoder"]["mse"] == pytest.approx(row["mse"], abs=1e-6)
        assert document["autoencoder"]["anomaly_score"] == pytest.approx(
            row["anomaly_score"], abs=1e-3
        )
