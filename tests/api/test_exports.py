import csv
import io
import json
import threading

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from api.main import make_app
from api.protocol import PacedProtocol
from api.routes import exports
from shared import inspection_queries
from shared.errors import DatabaseUnavailable
from shared.verdicts import ReviewReason


@pytest.fixture
def judged(api, photo, judge_all):
    """Submits photos with these fields and judges them; returns their ids, newest first."""

    def submit(*fields, **outcome):
        for seed, one in enumerate(fields):
            answer = api.post("/v1/inspections", files={"file": photo(seed=seed)}, data=one)
            assert answer.status_code == 202, answer.text
        return sorted(judge_all(**outcome), reverse=True)

    return submit


def rows(answer):
    return list(csv.DictReader(io.StringIO(answer.text, newline="")))


def test_csv_has_one_row_an_inspection_with_what_was_decided(api, judged):
    (id_,) = judged({"serial": "SN1", "lot": "L7"}, reasons=(ReviewReason.NEAR_THRESHOLD,))
    claimed = api.post("/v1/reviews/next", json={}).json()
    api.post(
        f"/v1/reviews/{claimed['id']}/decision",
        json={
            "lease_token": claimed["lease_token"],
            "verdict": "defective",
            "defect_type": "broken_large",
            "comment": 'a chip, "small"',
        },
    )

    answer = api.get("/v1/inspections.csv")

    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="inspections.csv"'
    (row,) = rows(answer)
    assert row["id"] == id_
    assert (row["serial"], row["lot"], row["line"]) == ("SN1", "L7", "")
    assert (row["verdict"], row["model_verdict"], row["disposition"]) == (
        "defective",
        "good",
        "reject",
    )
    assert (row["verdict_source"], row["defect_type"]) == ("person", "broken_large")
    assert row["comment"] == 'a chip, "small"'
    assert float(row["defect_probability"]) == 0.1
    decision = api.get(f"/v1/inspections/{id_}").json()["review"]["decision"]
    assert (row["reviewer"], row["decided_at"][:19]) == (decision["reviewer"], decision["at"][:19])


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_text_that_a_spreadsheet_would_run_is_disarmed(api, judged, text):
    judged({"serial": text})

    (row,) = rows(api.get("/v1/inspections.csv"))

    assert row["serial"] == "'" + text


def test_both_take_the_filters_of_the_list_and_all_pages(api, judged, monkeypatch):
    monkeypatch.setattr(exports, "_PAGE", 2)
    ids = judged(*({"lot": "L1"} for _ in range(5)), {"lot": "L2"})

    lines = api.get("/v1/inspections.ndjson?lot=L1").text.splitlines()

    assert [json.loads(line)["id"] for line in lines] == ids[1:]
    assert json.loads(lines[0]) == api.get(f"/v1/inspections/{ids[1]}").json()
    assert [row["id"] for row in rows(api.get("/v1/inspections.csv?lot=L1"))] == ids[1:]
    assert rows(api.get("/v1/inspections.csv?lot=nothing")) == []


def test_a_database_that_goes_away_midway_breaks_the_answer_off(api, judged, monkeypatch):
    monkeypatch.setattr(exports, "_PAGE", 1)
    judged({}, {})
    page, calls = inspection_queries.page, []

    def fails_later(*arguments, **named):
        calls.append(named)
        if len(calls) > 1:
            raise DatabaseUnavailable("away")
        return page(*arguments, **named)

    monkeypatch.setattr(inspection_queries, "page", fails_later)
    # What leaves the app as an exception closes the connection without its last chunk.
    with pytest.raises(RuntimeError, match="already started"):
        TestClient(api.app, headers=api.headers).get("/v1/inspections.ndjson")

    calls[:] = [None]  # away from the start
    assert api.get("/v1/inspections.ndjson").status_code == 503


@pytest.fixture
def address(wait_until):
    """Of a server on a socket: what a broken connection looks like, only a socket can show."""
    config = uvicorn.Config(make_app(), port=0, http=PacedProtocol, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the server")
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


def test_a_client_can_tell_half_a_list_from_a_whole_one(api, judged, monkeypatch, address):
    monkeypatch.setattr(exports, "_PAGE", 1)
    ids = judged({}, {})
    url, headers = (
        f"{address}/v1/inspections.ndjson",
        {"Authorization": api.headers["Authorization"]},
    )
    whole = httpx.get(url, headers=headers).text
    assert [json.loads(line)["id"] for line in whole.splitlines()] == ids
    page = inspection_queries.page

    def away_on_the_second_page(*arguments, **named):
        if named["page_token"]:
            raise DatabaseUnavailable("away")
        return page(*arguments, **named)

    monkeypatch.setattr(inspection_queries, "page", away_on_the_second_page)
    received = []
    with httpx.stream("GET", url, headers=headers, timeout=30) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            received.extend(answer.iter_lines())

    assert [json.loads(line)["id"] for line in received] == ids[:1]


def test_a_comment_is_disarmed_even_behind_a_tab():
    assert exports._cell("\t=1+1") == "'\t=1+1"
    assert exports._cell(-1.5) == -1.5
