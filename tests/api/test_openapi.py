"""The OpenAPI document is true: its examples fit its schemas, and every route is described."""

import jsonschema
import pytest
from fastapi.testclient import TestClient

from api.main import make_app
from shared.inspection_document import INSPECTION_EXAMPLE, InspectionOut


@pytest.fixture(scope="module")
def document():
    # Without the lifespan: the document needs no servers.
    return TestClient(make_app()).get("/openapi.json").json()


def test_the_example_of_an_inspection_is_one(document):
    schema = {"$ref": "#/components/schemas/InspectionOut", "components": document["components"]}

    jsonschema.validate(INSPECTION_EXAMPLE, schema)
    assert InspectionOut.model_validate(INSPECTION_EXAMPLE).model_dump(mode="json").keys() == (
        INSPECTION_EXAMPLE.keys()
    )


def test_the_example_is_what_the_service_would_say(document):
    """Its flags follow from its numbers."""
    example = INSPECTION_EXAMPLE
    classifier, autoencoder = example["classifier"], example["autoencoder"]

    assert classifier["defective"] is (classifier["defect_probability"] >= classifier["threshold"])
    assert autoencoder["anomalous"] is (autoencoder["anomaly_score"] >= autoencoder["threshold"])
    assert classifier["defective"] is not autoencoder["anomalous"]
    assert example["review_reasons"] == ["model_disagreement"]
    assert example["disposition"] == "hold"


def test_every_route_tells_its_problems(document):
    for path, methods in document["paths"].items():
        if path in {"/healthz", "/readyz"}:
            continue
        for method, operation in methods.items():
            problems = {
                status
                for status, answer in operation["responses"].items()
                if "application/problem+json" in answer.get("content", {})
            }
            assert {"401", "403"} <= problems, (method, path)


def test_every_reference_leads_somewhere(document):
    def walk(node):
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for value in node.values():
                yield from walk(value)
        elif isinstance(node, list):
            for value in node:
                yield from walk(value)

    for reference in set(walk(document)):
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_the_photo_is_described_in_every_way_in_which_it_may_come(document):
    content = document["paths"]["/v1/inspections"]["post"]["requestBody"]["content"]

    assert set(content) == {
        "multipart/form-data",
        "image/jpeg",
        "image/png",
        "application/json",
    }
    assert content["application/json"]["schema"]["required"] == ["upload_id"]
    properties = content["multipart/form-data"]["schema"]["properties"]
    assert {"file", "product", "serial", "lot", "line", "station"} <= set(properties)


def test_the_documentation_page_needs_no_internet():
    page = TestClient(make_app()).get("/docs").text

    assert "swagger-ui" in page
    assert "//cdn." not in page
    assert 'src="http' not in page
    assert 'href="http' not in page
