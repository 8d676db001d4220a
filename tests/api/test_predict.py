import threading

from sqlalchemy import func, select

from api.routes import predict
from shared.errors import DatabaseUnavailable
from shared.tables import Inspection


def test_the_verdict_is_in_the_reply_in_the_words_of_the_walkthrough(api, png, judge_all):
    done = threading.Event()

    def work():
        while not done.is_set():
            try:
                judge_all(probability=0.78)
            except AssertionError:  # nothing is queued yet
                continue
            return

    worker = threading.Thread(target=work)
    worker.start()
    answer = api.post("/predict", files={"file": ("bottle.png", png)})
    done.set()
    worker.join()

    assert answer.status_code == 200
    body = answer.json()
    assert body["verdict"] == "Defective"
    assert body["defect_probability"] == 0.78
    assert body["threshold"] == 0.336
    assert body["anomaly_score"] == 0.0021
    assert body["needs_manual_review"] is False
    assert body["heatmap_url"] == body["inspection"]["overlay_url"]
    assert body["inspection"]["priority"] == 9


def test_what_is_accepted_is_not_answered_with_an_error_that_brings_it_again(
    api, png, db, monkeypatch
):
    async def away(*_):
        raise DatabaseUnavailable("The database cannot be reached; try again shortly.")

    monkeypatch.setattr(predict, "read_when_finished", away)
    answer = api.post("/predict", files={"file": ("bottle.png", png)})

    assert answer.status_code == 202
    body = answer.json()
    assert (body["verdict"], body["inspection"]["status"]) == (None, "queued")
    assert answer.headers["Location"].endswith(body["inspection"]["id"])
    assert db.scalar(select(func.count()).select_from(Inspection)) == 1
