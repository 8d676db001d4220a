"""The page that explains: for everybody who is logged in, with the figures that are in force."""

import json
from pathlib import Path

import pytest

from shared.manifest import Thresholds
from shared.tables import Scope
from shared.verdicts import Scores, decide

ROOT = Path(__file__).parents[3]
PAGE = "/how-it-works"


def test_whoever_is_logged_in_can_read_it(log_in):
    for scope in Scope:
        answer = log_in(scope).get(PAGE)

        assert answer.status_code == 200
        assert "The two models disagree" in answer.text


def test_the_figures_in_force_are_shown_to_who_may_see_models(log_in, organisation):
    shown = log_in(Scope.READ).get(PAGE).text
    hidden = log_in(Scope.SUBMIT).get(PAGE).text

    # The thresholds of the manifest that these tests publish.
    assert "In force here" in shown
    assert "33.6 %" in shown
    assert "In force here" not in hidden


def test_who_is_not_logged_in_is_sent_to_do_so(app):
    answer = app.get(PAGE)

    assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={PAGE}")


def test_its_pictures_are_there(admin):
    text = admin.get(PAGE).text
    sources = [part.split('"')[0] for part in text.split('src="')[1:] if "example-" in part]

    assert len(sources) == 16
    for source in sources:
        picture = admin.get(source.replace("&amp;", "&"))
        assert (picture.status_code, picture.content[:3]) == (200, b"\xff\xd8\xff"), source


@pytest.fixture(scope="module")
def drawn():
    return json.loads((ROOT / "api" / "web" / "examples.json").read_text())


def test_the_examples_are_those_of_the_bundled_model(drawn):
    """Otherwise run deploy/readme/draw_examples.py, and read what the page says of each."""
    manifest = json.loads((ROOT / "worker" / "bundles" / "bottle" / "manifest.json").read_text())

    assert drawn["model"] == manifest["model"]["sha256"]
    assert drawn["thresholds"] == manifest["thresholds"]
    assert drawn["min_side"] == manifest["quality"]["min_side"]
    # The page names them in words.
    counts = manifest["data"]["counts"]
    assert (counts.pop("good"), sum(counts.values())) == (240, 84)
    assert manifest["metrics"]["escapes"] == 7


def test_what_the_page_says_of_each_example_follows_from_its_scores(drawn):
    thresholds = Thresholds.model_validate(drawn["thresholds"])
    for name, one in drawn["examples"].items():
        scores = Scores(one["defect_probability"], 0.0, one["anomaly_score"], 0.0, ())
        outcome = decide(scores, thresholds)
        assert (outcome.verdict, outcome.disposition) == (one["verdict"], one["disposition"]), name
        assert (outcome.is_defective, outcome.is_anomalous) == {
            "good": (False, False),
            "held": (True, False),
            "broken_small": (True, True),
            "contamination": (True, True),
        }[name]


def test_an_address_that_is_none_is_a_page_for_people_and_a_problem_for_programs(app):
    person = app.get("/nonsense", headers={"Accept": "text/html,*/*"})
    program = app.get("/nonsense")
    of_the_api = app.get("/v1/nonsense", headers={"Accept": "text/html,*/*"})

    assert (person.status_code, "There is no page" in person.text) == (404, True)
    for answer in (program, of_the_api):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_an_inspection_that_is_none_is_told_on_a_page_with_the_way_on(admin, app):
    answer = admin.get("/inspections/nonsense")
    assert (answer.status_code, "There is no such inspection" in answer.text) == (404, True)
    assert 'aria-label="Pages"' in answer.text

    app.cookies.clear()
    assert app.get("/inspections/nonsense").headers["location"].startswith("/login")


def test_the_bars_of_the_example_say_on_which_side_it_lies(admin, drawn):
    text = admin.get(PAGE).text
    chip, limits = drawn["examples"]["broken_small"], drawn["thresholds"]
    above = [chip[name] >= limits[name] for name in ("defect_probability", "anomaly_score")]
    assert text.count("at or above the threshold of") == sum(above)
    assert text.count("below the threshold of") == 2 - sum(above)
