"""What does not belong is refused with a problem document that says what to do."""

import re
from base64 import b64encode
from json import dumps
from urllib.parse import quote

import pytest
from sqlalchemy import func, select

from api.main import make_app
from shared.tables import Inspection, Scope

MB = 1024 * 1024


def submit(api, data, **fields):
    return api.post("/v1/inspections", files={"file": ("part.png", data)}, data=fields)


@pytest.fixture(autouse=True)
def nothing_is_accepted(db):
    yield
    assert db.scalar(select(func.count()).select_from(Inspection)) == 0


def token(moment):
    return b64encode(f"{moment} insp_{'0' * 26}".encode()).decode()


def assert_problem(answer, status, code, field=None):
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"urn:defectscope:problem:{code}"
    assert body["detail"]
    assert body.get("field") == field


@pytest.mark.parametrize("data", [b"", b"GIF89a....", b"%PDF-1.7", b"<svg/>", b"BM" + b"\0" * 60])
def test_what_is_not_an_image_is_415(api, data):
    assert_problem(submit(api, data), 415, "not_an_image")


def test_a_truncated_photo_is_refused_at_the_door(api, png, jpeg):
    assert_problem(submit(api, png[: len(png) // 2]), 422, "unreadable_image")
    assert_problem(submit(api, jpeg[: len(jpeg) // 2]), 422, "unreadable_image")


def test_a_photo_that_is_too_small_is_told_the_size(api, photo):
    answer = submit(api, photo(127, 500))

    assert_problem(answer, 422, "image_out_of_bounds")
    assert "127" in answer.json()["detail"]
    assert "128" in answer.json()["detail"]


def test_an_upload_over_the_limit_is_413(api, png):
    too_large = png + bytes(10 * MB + 1 - len(png))

    assert_problem(submit(api, too_large), 413, "too_large")
    raw = api.post("/v1/inspections", content=too_large, headers={"Content-Type": "image/png"})
    assert_problem(raw, 413, "too_large")


def test_a_chunked_body_is_counted_while_it_streams(api):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 200 * MB:
            sent += MB
            yield bytes(MB)

    answer = api.post("/v1/inspections", content=endless(), headers={"Content-Type": "image/png"})

    assert_problem(answer, 413, "too_large")


def test_a_lying_content_length_is_refused_before_a_byte_is_read(api):
    answer = api.post(
        "/v1/inspections",
        content=iter([b"\x89PNG"]),
        headers={"Content-Type": "image/png", "Content-Length": str(10_000 * MB)},
    )

    assert_problem(answer, 413, "too_large")


def test_an_unknown_product_is_told_the_known_ones(api, png):
    answer = submit(api, png, product="cable")

    assert_problem(answer, 422, "unknown_product", "product")
    assert "bottle" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("serial", "x" * 201),
        ("serial", "nul\0byte"),
        ("lot", "line\nbreak"),
        ("captured_at", "yesterday"),
        ("captured_at", "2026-03-02T12:00:00"),  # whose clock?
        ("captured_at", "9999-12-31T23:59:59-12:00"),  # year 10000 in UTC
        ("captured_at", "0001-01-01T00:00:00+12:00"),
        ("metadata", "not json"),
        ("metadata", '{"a": ' + "[" * 40 + "]" * 40 + "}"),
        ("metadata", "[1, 2]"),
        ("metadata", '{"a": NaN}'),
        ("metadata", '{"a": 1e999}'),
        ("metadata", '{"a": "\\u0000"}'),
        ("metadata", '{"a": "\\ud800"}'),
        ("metadata", '{"a": ' + "[" * 8000 + "]" * 8000 + "}"),
        ("metadata", '{"a": "' + "x" * 17000 + '"}'),
        ("priority", "10"),
        ("priority", "high"),
        ("serail", "a typing error"),
    ],
)
def test_a_bad_field_is_named(api, png, field, value):
    answer = submit(api, png, **{field: value})

    if answer.status_code == 400:  # the form parser's own bound came first
        assert answer.json()["code"] == "malformed_request"
    else:
        assert_problem(answer, 422, "invalid_input", field)


def test_a_field_that_comes_twice_is_named(api, png):
    answer = api.post(
        "/v1/inspections", files={"file": ("a.png", png)}, data={"serial": ["one", "two"]}
    )

    assert_problem(answer, 422, "invalid_input", "serial")


def test_a_form_without_a_photo_says_so(api):
    assert_problem(
        api.post("/v1/inspections", files={"other": ("a.png", b"x")}), 422, "file_missing", "file"
    )


def test_two_photos_in_one_form_are_refused(api, png):
    files = [("file", ("a.png", png)), ("file", ("b.png", png))]

    assert_problem(api.post("/v1/inspections", files=files), 400, "malformed_request")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"garbage without the boundary"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n--x--"),
    ],
)
def test_a_broken_form_is_a_4xx(api, content_type, body):
    answer = api.post("/v1/inspections", content=body, headers={"Content-Type": content_type})

    assert answer.status_code in {400, 422}
    assert answer.json()["code"] in {"malformed_request", "file_missing"}


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", ""])
def test_another_content_type_is_415(api, content_type):
    answer = api.post("/v1/inspections", content=b"{}", headers={"Content-Type": content_type})

    assert_problem(answer, 415, "unsupported_content_type")


def test_an_unknown_id_is_404(api):
    for path in ("", "/image", "/overlay", "/anomaly-map", "/history"):
        assert_problem(api.get(f"/v1/inspections/insp_nothing{path}"), 404, "not_found")
    assert_problem(api.post("/v1/inspections/insp_nothing/cancel"), 404, "not_found")
    unknown = "insp_" + "0" * 26
    for path in ("", "/image", "/overlay", "/anomaly-map", "/history"):
        assert_problem(api.get(f"/v1/inspections/{unknown}{path}"), 404, "not_found")
    for path in ("/v1/inspections/%00", "/v1/inspections/%00/history", "/v1/products/%00/versions"):
        assert_problem(api.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "name", ["\0", "\ud800", "up_" + "0" * 9000, "batch_\0", "../../admin.key"]
)
def test_what_cannot_be_an_id_is_404_wherever_it_is_sent(api, png, name):
    file = {"file": ("a.png", png)}
    headers = {"Content-Type": "application/json"}

    as_json = api.post("/v1/inspections", content=dumps({"upload_id": name}), headers=headers)
    assert_problem(as_json, 404, "not_found")
    if name != "\ud800":  # no form and no URL can hold it
        in_form = api.post("/v1/batches", files=file, data={"batch_id": name})
        assert_problem(in_form, 404, "not_found")
        in_path = api.put(f"/v1/uploads/{quote(name)}"[:2000], content=png)
        assert in_path.status_code in {404, 422}


@pytest.mark.parametrize(
    "text", ["\0", "\x7f", "\n", "\U0010ffff", "%00", "' OR 1=1 --", "9" * 400, "nan"]
)
def test_hostile_text_in_any_parameter_of_any_route_is_refused_or_harmless(api, text):
    for path, methods in make_app().openapi()["paths"].items():
        in_path = re.sub(r"{\w+}", quote(text, safe=""), path)
        for method, operation in methods.items():
            for parameter in operation.get("parameters", ()):
                query = {parameter["name"]: text} if parameter["in"] == "query" else {}
                headers = {parameter["name"]: text} if is_sendable(parameter, text) else {}
                answer = api.request(method, in_path, params=query, headers=headers)
                assert answer.status_code < 500, (method, path, parameter["name"])


def is_sendable(parameter, text):
    return parameter["in"] == "header" and text.isascii() and text.isprintable()


def test_fields_that_nobody_knows_are_not_all_told_back(api, png):
    unknown = {f"field{number}": "x" for number in range(4000)}
    headers = {"Content-Type": "image/png"}

    answer = api.post("/v1/inspections", params=unknown, content=png, headers=headers)

    assert_problem(answer, 422, "invalid_input", "field0")
    assert len(answer.content) < 1000


def test_the_name_of_a_field_may_be_anything_that_a_client_can_think_of(api):
    body = b'--x\r\nContent-Disposition: form-data; name="\\ud800"\r\n\r\n1\r\n--x\r\n'
    body += b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n--x--\r\n'
    claimed = {"Content-Type": "multipart/form-data; boundary=x; charset=unicode_escape"}

    assert api.post("/v1/inspections", content=body, headers=claimed).status_code == 422
    in_json = dumps({"upload_id": "up_" + "0" * 26, "\ud800": 1})
    headers = {"Content-Type": "application/json"}
    assert api.post("/v1/inspections", content=in_json, headers=headers).status_code == 422


def test_unknown_paths_and_methods_are_problems_too(api):
    assert_problem(api.get("/v2/nothing"), 404, "not_found")
    assert_problem(api.delete("/v1/inspections"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"page_size": 0}, "page_size"),
        ({"page_size": 501}, "page_size"),
        ({"verdict": "perhaps"}, "verdict"),
        ({"since": "2026-01-01"}, "since"),
        ({"since": "0555-03-30T03:47:48-16:06"}, "since"),
        ({"page_token": "bm9uc2Vuc2U="}, "page_token"),
        ({"page_token": "%%%"}, "page_token"),
        ({"page_token": b64encode(b"2026-01-01T00:00:00 insp_\0").decode()}, "page_token"),
        ({"page_token": token("0001-01-01T00:00:00+23:59")}, "page_token"),
        ({"page_token": token("9999-12-31T23:59:59-23:59")}, "page_token"),
        ({"serial": "nul\0"}, "serial"),
        ({"batch": "nul\0"}, "batch"),
    ],
)
def test_a_bad_query_names_its_field(api, query, field):
    assert_problem(api.get("/v1/inspections", params=query), 422, "invalid_input", field)


def test_a_page_token_may_be_of_any_time_zone_that_can_be_written(api):
    strange = token("2026-01-01T00:00:00+23:59:59.999999")

    assert api.get("/v1/inspections", params={"page_token": strange}).status_code == 200


def test_without_a_key_there_is_nothing_to_see(app, organisation):
    for key in (None, "nonsense", "ds_0123456789abcdef_" + "x" * 43):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        answer = app.get("/v1/inspections", headers=headers)
        assert_problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_key_needs_the_scope(app, new_key, png):
    reader = {"X-API-Key": new_key(Scope.READ)}
    submitter = {"X-API-Key": new_key(Scope.SUBMIT)}

    answer = app.post("/v1/inspections", files={"file": ("a.png", png)}, headers=reader)
    assert_problem(answer, 403, "missing_scope")
    assert_problem(app.get("/v1/inspections", headers=submitter), 403, "missing_scope")
    assert app.get("/v1/inspections", headers=reader).status_code == 200


JSON_ROUTES = [("POST", "/v1/keys"), ("POST", "/v1/uploads"), ("PUT", "/v1/products/x/retention")]


@pytest.mark.parametrize(("method", "path"), JSON_ROUTES)
def test_of_a_json_body_no_more_is_read_than_has_to_fit(api, method, path):
    sent = 0

    def endless():
        nonlocal sent
        while sent < 200 * MB:
            sent += MB
            yield b" " * MB

    headers = {"Content-Type": "application/json"}
    answer = api.request(method, path, content=endless(), headers=headers)
    assert_problem(answer, 413, "too_large")

    del api.headers["Authorization"]
    answer = api.request(method, path, content=endless(), headers=headers)
    assert_problem(answer, 401, "unauthenticated")


@pytest.mark.parametrize(("method", "path"), JSON_ROUTES)
@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 50_000])
def test_a_body_that_is_not_json_is_400(api, method, path, body):
    answer = api.request(method, path, content=body)

    assert_problem(answer, 400, "malformed_request")
