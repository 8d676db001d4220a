"""Models in the browser: versions, figures, and thresholds with what others would do."""

import html
import re
from datetime import timedelta

import pytest

from shared import products, reviews
from shared.db import transaction
from shared.reviews import Decided
from shared.tables import ApiKey, Product, Review, Scope
from shared.verdicts import ReviewReason, Verdict

HOSTILE = "<script>alert(1)</script>"
PAGE = "/models/bottle"
LEASE = timedelta(minutes=2)


@pytest.fixture
def publish(organisation, make_manifest):
    """Another version of a product; gives its number."""

    def publish(product="bottle", organisation_id=organisation, **changes):
        with transaction() as session:
            return products.publish(
                session,
                organisation_id=organisation_id,
                manifest=make_manifest(product, **changes),
                is_stored=lambda _: True,
                actor="test",
            ).version

    return publish


@pytest.fixture
def decided(queued, judge_all, organisation):
    """Photos with a defect probability that people decided."""

    def decided(probability, truth, count):
        queued(*[0] * count)
        judge_all(probability, (ReviewReason.RANDOM_AUDIT,))
        with transaction() as session:
            reviewer = session.query(ApiKey).first().id
            for row in session.query(Review).filter_by(decided_at=None).all():
                claimed = reviews.claim(
                    session,
                    organisation_id=organisation,
                    review_id=row.id,
                    reviewer=reviewer,
                    lease=LEASE,
                )
                reviews.decide(
                    session,
                    organisation_id=organisation,
                    review_id=row.id,
                    lease_token=claimed.lease_token,
                    reviewer=reviewer,
                    decided=Decided(truth),
                )

    return decided


@pytest.fixture
def in_force(admin):
    """The thresholds by the API, with their ETag."""

    def in_force():
        return admin.get("/v1/products/bottle/thresholds").json()

    return in_force


def etag_in(text):
    return re.search(r'name="etag" value="(sha256:\w+)"', text)[1]


def words_of(text):
    """What a person reads, in one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_the_list_tells_what_is_active_and_what_waits(admin, publish, queued, judge_all):
    publish(seed=7)
    queued(0, 0)
    judge_all(0.35, (ReviewReason.NEAR_THRESHOLD,))

    assert "bottle version 1 none 2 2 0.0 %" in words_of(admin.get("/models").text)


def test_a_version_is_activated_and_rolled_back(admin, publish):
    publish(seed=7)
    page = admin.get(PAGE).text
    assert "Activate version 2?" in page
    assert "Roll back" not in page

    after = admin.submit(f"{PAGE}/versions/2/activate").text
    assert "Photos that are accepted from now on" in after
    assert "Roll back to version 1?" in after
    leaving = re.search(r'name="from_version" value="(\d+)"', after)[1]
    assert leaving == "2"
    assert "active again" in admin.submit(f"{PAGE}/rollback", from_version=leaving).text
    assert admin.get("/v1/products").json()["products"][0]["active_version"] == 1
    refused = admin.post(f"{PAGE}/rollback", from_version="9")
    assert refused.status_code == 409
    assert "bottle@1 is active, not bottle@9" in refused.text


def test_a_shadow_starts_and_stops(admin, publish):
    publish(seed=7)
    assert "in the shadow" in admin.submit(f"{PAGE}/versions/2/shadow").text
    assert "The shadow has ended" in admin.submit(f"{PAGE}/shadow/stop").text
    assert admin.post(f"{PAGE}/versions/1/shadow").status_code == 409


def test_figures_have_plain_names_and_unknown_ones_are_shown_as_well(admin, publish):
    publish(seed=7, metrics={"classifier_recall": 0.9612, "escapes": 3.0, "luck": 0.5})
    text = words_of(admin.get(f"{PAGE}?version=2").text)

    assert "Classifier: recall share of defective parts that it finds 96.1 %" in text
    assert "Escapes defective photos that both models let pass 3" in text
    assert "luck 0.5" in text
    assert admin.get(f"{PAGE}?version=9").status_code == 404


def test_older_versions_are_on_pages_of_their_own(admin, publish):
    newest = max(publish(seed=seed) for seed in range(100, 121))

    first = admin.get(PAGE).text
    older = html.unescape(re.search(r'href="([^"]*page_token=[^"]*)"', first)[1])
    rest = admin.get(older).text

    assert f"Activate version {newest}?" in first
    assert "Activate version 2?" not in first
    assert "Newest" not in words_of(first)
    assert "Activate version 2?" in rest
    assert "Older" not in words_of(rest)
    assert "About version 1 " in words_of(rest)  # the active one, on whichever page
    one = html.unescape(re.search(r'href="([^"]*version=2[^"]*)"', rest)[1])
    there = admin.get(one).text
    assert "About version 2 " in words_of(there)
    assert "Activate version 2?" in there  # still the page of older ones
    assert admin.get(f"{PAGE}?page_token=1").status_code == 200


def test_what_if_tells_present_against_proposed(admin, decided, queued, judge_all):
    decided(0.1, Verdict.GOOD, 6)
    decided(0.2, Verdict.DEFECTIVE, 4)
    queued(0, 0)
    judge_all(0.2)
    text = words_of(admin.get(f"{PAGE}/what-if?defect_percent=15&below=0&above=0").text)

    # The autoencoder finds none strange: from 15 % on, the two disagree.
    assert "Would pass 12 6" in text
    assert "Review load held for a person 0 of 12" in text
    assert "6 of 12 50.0 %" in text
    assert "decided 4 of 4 100.0 %, 39.8 % to 100.0 % 0 of 4" in text  # escapes seen


def test_what_cannot_be_is_said_in_the_part(admin):
    answer = admin.get(f"{PAGE}/what-if?defect_percent=many")

    assert answer.status_code == 200  # or htmx would not show it
    assert "not a number" in answer.text
    assert "<html" not in answer.text


def test_thresholds_are_taken_with_the_state_that_was_looked_at(admin, in_force):
    etag = etag_in(admin.get(PAGE).text)
    page = admin.submit(f"{PAGE}/thresholds", etag=etag, defect_percent="50", below="5", above="5")

    assert "These thresholds are in force" in page.text
    assert in_force()["version"] == 2
    assert in_force()["thresholds"] == {
        "defect_probability": 0.5,
        "near_threshold_low": 0.45,
        "near_threshold_high": 0.55,
        "anomaly_score": 4.0,
        "domain_distance": 50.0,
    }


def test_the_thresholds_in_force_make_no_new_version(admin, in_force):
    text = admin.get(PAGE).text
    shown = dict(re.findall(r'name="(\w+)" type="number" step="any"[^>]* value="([^"]*)"', text))
    page = admin.submit(f"{PAGE}/thresholds", etag=etag_in(text), **shown)

    assert "nothing was changed" in page.text
    assert in_force()["version"] == 1


def test_a_change_by_somebody_else_is_not_overwritten(admin, in_force):
    etag = etag_in(admin.get(PAGE).text)
    admin.submit(f"{PAGE}/thresholds", etag=etag, defect_percent="50")
    answer = admin.post(f"{PAGE}/thresholds", etag=etag, defect_percent="70")

    assert answer.status_code == 412
    assert "Nothing was changed" in answer.text
    assert in_force()["thresholds"]["defect_probability"] == 0.5
    # What was wanted stays on the sliders, against the new state.
    assert re.search(r'name="defect_percent" type="number"[^>]* value="70"', answer.text)
    assert etag_in(answer.text) == in_force()["digest"]
    stale = admin.get(f"{PAGE}/what-if?etag={etag}").text
    assert "Another version is active by now" in stale
    admin.submit(f"{PAGE}/thresholds", etag=etag_in(answer.text), defect_percent="70")
    assert in_force()["version"] == 3


def test_curves_wait_for_enough_decisions(admin, decided):
    decided(0.1, Verdict.GOOD, 6)
    decided(0.9, Verdict.DEFECTIVE, 4)
    few = words_of(admin.get(PAGE).text)
    assert "people have decided 6 good and 4 defective parts" in few

    decided(0.05, Verdict.DEFECTIVE, 1)
    text = words_of(admin.get(PAGE).text)
    assert "People see held parts first" in text
    # One of five defective parts ranks below all good ones.
    assert "Classifier 0.800" in text


def test_audit_share_and_retention(admin, db):
    assert "see this share" in admin.submit(f"{PAGE}/audit", percent="2.5").text
    assert "so long" in admin.submit(f"{PAGE}/retention", days="90").text
    product = db.query(Product).one()
    assert (product.audit_share, product.retention_days) == (0.025, 90)
    admin.submit(f"{PAGE}/retention", days="")
    db.refresh(product)
    assert product.retention_days is None
    for refused in (
        admin.post(f"{PAGE}/audit", percent="x"),
        admin.post(f"{PAGE}/audit", percent="101"),
        admin.post(f"{PAGE}/audit", percent="nan"),
        admin.post(f"{PAGE}/retention", days="0"),
    ):
        assert refused.status_code == 422
        assert 'role="alert"' in refused.text


def test_a_product_without_an_active_version_has_its_page(admin, publish):
    publish("cable")
    text = admin.get("/models/cable").text

    assert "no version is active" in text
    assert "Activate version 1?" in text
    assert "sliders" not in re.sub(r"sliders\.js", "", text)
    assert admin.get("/models/cable/what-if").status_code == 409
    assert admin.post("/models/cable/thresholds", etag="x").status_code == 409


def test_what_a_manifest_says_is_text(admin, publish):
    publish(seed=7, provenance=HOSTILE, policy=HOSTILE, metrics={HOSTILE: 1.0})
    text = admin.get(f"{PAGE}?version=2").text

    assert HOSTILE not in text
    assert text.count("&lt;script&gt;") >= 3


CHANGES = (
    "thresholds",
    "rollback",
    "versions/1/activate",
    "versions/1/shadow",
    "shadow/stop",
    "audit",
    "retention",
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_form_from_elsewhere_changes_nothing(admin, change):
    assert admin.client.post(f"{PAGE}/{change}", data={}).status_code == 403


def test_who_may_read_sees_all_and_can_change_nothing(log_in, publish):
    publish(seed=7)
    reader = log_in(Scope.READ)
    text = reader.get(PAGE).text

    assert "Thresholds, and what others would do" in text
    assert "Use these thresholds" not in text
    assert "Activate" not in text
    assert text.count('method="post"') == 1  # to log out
    for change in CHANGES:
        refused = reader.post(f"{PAGE}/{change}")
        assert refused.status_code == 403
        assert "lacks the scope" in refused.text


def test_who_may_not_read_is_told_so(log_in):
    submitter = log_in(Scope.SUBMIT)
    for path in ("/models", PAGE, f"{PAGE}/what-if"):
        assert submitter.get(path).status_code == 403


def test_the_models_of_others_do_not_exist(log_in):
    stranger = log_in(Scope.ADMIN, organisation_id="org_stranger")

    for answer in (
        stranger.get(PAGE),
        stranger.get(f"{PAGE}/what-if"),
        stranger.get("/models/<script>"),
        *(
            stranger.post(f"{PAGE}/{change}", etag="x", percent="1", from_version="1")
            for change in CHANGES
        ),
    ):
        assert answer.status_code == 404
        assert "<h1>That did not work</h1>" in answer.text
    assert "bottle" not in stranger.get("/models").text
