import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from shared.manifest import Limits, Thresholds
from shared.verdicts import Scores, decide
from worker.train.judged import JudgedPhoto, Maps, row
from worker.train.metrics import measure, out_of_fold
from worker.train.report import Pictures, galleries, render, threshold_ranges, write_report

THRESHOLDS = Thresholds(
    defect_probability=0.5,
    near_threshold_low=0.45,
    near_threshold_high=0.55,
    anomaly_score=5.0,
    domain_distance=50.0,
)
LIMITS = Limits(gradcam_high=3.0, anomaly_low=2.0, anomaly_high=8.0)


def judged(name, label, probability, anomaly, *, is_seen=False):
    scores = Scores(probability, anomaly / 1000, anomaly, 10.0, ())
    outcome = decide(scores, THRESHOLDS)
    return JudgedPhoto(name, label, is_seen, scores, outcome, THRESHOLDS)


PHOTOS = [
    judged("calm.png", "good", 0.1, 1.0),
    judged("alarm.png", "good", 0.8, 2.0),
    judged("worse-alarm.png", "good", 0.95, 2.0),
    judged("clear.png", "chip", 0.99, 9.0),
    judged("saved.png", "chip", 0.3, 8.0),
    judged("escape.png", "chip", 0.4, 3.0),
    judged("worse-escape.png", "crack", 0.02, 3.0),
]


def document_of(photos, **changes):
    unseen = [photo for photo in photos if not photo.is_seen]
    return {
        "product": "bottle",
        **measure(unseen, resamples=100),
        "photos": [row(photo) for photo in photos],
        **changes,
    }


class Recorder:
    """Hands out pictures and remembers which were asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, path):
        self.asked.append(path)
        _, jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
        return Pictures(jpeg.tobytes(), jpeg.tobytes(), jpeg.tobytes())


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.open, self.text = [], [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.open.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def page_of(document, pictures=None):
    html = render(document, pictures or Recorder())
    page = Page(html)
    page.text = re.sub(r"\s+", " ", page.text)
    page.html = html
    return page


def test_the_page_needs_no_other_file_and_no_network(tmp_path):
    page = write_report(document_of(PHOTOS), tmp_path / "report", Recorder())
    html = page.read_text(encoding="utf-8")
    parsed = Page(html)
    assert parsed.links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in parsed.links)
    assert not re.search(r"@import|url\((?!#)|<script|<link", html)
    assert parsed.tags.count("svg") == 6


def test_the_document_lies_beside_the_page(tmp_path):
    document = document_of(PHOTOS)
    write_report(document, tmp_path, Recorder())
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(document))


def test_the_worst_mistakes_come_first():
    escapes, alarms, nearest = galleries([row(photo) for photo in PHOTOS])
    assert [r["path"] for r in escapes.shown] == ["worse-escape.png", "escape.png"]
    assert [r["path"] for r in alarms.shown] == ["worse-alarm.png", "alarm.png"]
    # Called good by the classifier, held because of the autoencoder: on the wrong side.
    assert [r["path"] for r in nearest.shown] == ["saved.png", "calm.png", "clear.png"]


def test_pictures_are_asked_for_only_where_they_are_shown():
    many = [judged(f"{n}.png", "good", n / 1000, 1.0) for n in range(100)]
    pictures = Recorder()
    render(document_of([*PHOTOS, *many]), pictures)
    assert pictures.asked[:4] == ["worse-escape.png", "escape.png", "worse-alarm.png", "alarm.png"]
    assert len(pictures.asked) == 4 + 8


def test_photos_seen_in_training_are_not_on_the_page():
    seen = judged("seen-escape.png", "chip", 0.01, 1.0, is_seen=True)
    page = page_of(document_of([*PHOTOS, seen]))
    assert "seen-escape.png" not in page.text
    assert "2 of 4" in page.text  # escapes of unseen defects


def test_the_page_says_how_the_photos_came_to_be_judged():
    assert (
        "3 good and 4 defective parts · photos not seen in training"
        in page_of(document_of(PHOTOS)).text
    )
    document = {**document_of(PHOTOS), **measure(PHOTOS, measured_on=out_of_fold(5), resamples=50)}
    page = page_of(document)
    assert "3 good and 4 defective parts · out of fold, 5 folds" in page.text
    assert "not seen in training" not in page.text


def test_the_page_shows_each_figure_with_its_interval():
    document = document_of(PHOTOS)
    text = page_of(document).text
    low, high = document["intervals"]["classifier"]["recall"]
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in text
    low, high = document["intervals"]["autoencoder"]["auroc"]
    assert f"{low:.3f} to {high:.3f}" in text
    assert document["in_words"]["escapes"] in text


def test_names_of_files_and_types_cannot_become_markup():
    hostile = judged("<img src=x onerror=alert(1)>.png", "<b>chip</b>", 0.1, 1.0)
    page = page_of(document_of([*PHOTOS, hostile], product="<script>"))
    assert "<script" not in page.html
    assert "<img src=x" not in page.html
    assert "<b>chip" not in page.html


@pytest.mark.parametrize(
    ("photos", "note"),
    [
        ([], "no photos to measure on"),
        (PHOTOS[:3], "No defective photo"),
        (PHOTOS[3:], "No good photo"),
    ],
)
def test_what_cannot_be_said_is_left_out_and_noted(photos, note):
    page = page_of(document_of(photos))
    assert note in page.text
    assert "nan" not in page.text.lower().split()


def test_maps_are_reported_where_there_are_masks():
    mask = np.zeros((256, 256), np.bool_)
    mask[64:96, 64:96] = True
    strangeness = np.where(mask, np.float16(9), np.float16(1))
    maps = Maps(np.zeros((8, 8), np.float32), strangeness, LIMITS, mask)
    good = Maps(np.zeros((8, 8), np.float32), np.full((256, 256), 1, np.float16), LIMITS, None)
    photos = [replace(p, maps=maps if p.is_defective else good) for p in PHOTOS]
    text = page_of(document_of(photos)).text
    assert "4 of 4 defective photos have one" in text
    assert "Anomaly map, AUPRO" in text
    assert "100.0 % of the anomaly maps" in text
    assert "AUPRO" not in page_of(document_of(PHOTOS)).text


def test_thresholds_that_differ_by_fold_are_shown_as_a_range():
    other = THRESHOLDS.model_copy(update={"anomaly_score": 7.0})
    photos = [*PHOTOS, replace(PHOTOS[0], thresholds=other)]
    ranges = threshold_ranges([row(photo) for photo in photos])
    assert ranges["anomaly_score"] == (5.0, 7.0)
    assert ranges["defect_probability"] == (0.5, 0.5)
    assert "5.000 to 7.000" in page_of(document_of(photos)).text
