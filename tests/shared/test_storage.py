"""One contract, two stores: S3 over real HTTP, and a folder."""

import io
import os
import ssl
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import httpx
import obstore
import pytest
import trustme

from shared.errors import NotFound, StorageUnavailable
from shared.settings import Settings
from shared.storage import make_storage, s3
from shared.storage.folder import LocalStorage
from shared.storage.keys import image_key, map_key
from shared.storage.s3 import S3Storage


def s3_settings(endpoint, **more):
    return Settings(
        s3_endpoint_url=endpoint,
        s3_access_key_id="test",
        s3_secret_access_key="test-secret",
        storage_url="s3://parts",
        **more,
    )


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path):
    if request.param == "local":
        store = LocalStorage(tmp_path / "objects")
    else:
        store = S3Storage(s3_settings(request.getfixturevalue("s3_url")), "parts")
    store.prepare()
    return store


class Answering:
    """A store that answers as it is told, and remembers what it was asked."""

    def __init__(self):
        self.requests = []
        self.statuses = []
        """Of the next answers; 200 after them."""
        self.body, self.told_length = b"", None
        self.is_silent = False
        self._servers = []
        self._url = self._serve(None)

    def store(self):
        return S3Storage(s3_settings(self._url), "parts")

    def over_tls(self, authority):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(context)
        return self._serve(context).replace("http://127.0.0.1", "https://localhost")

    def stop(self):
        self.is_silent = False
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _serve(self, context):
        told = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self):
                sent = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                told.requests.append((self.command, self.path, headers, sent))
                while told.is_silent:
                    time.sleep(0.01)
                self.send_response(told.statuses.pop(0) if told.statuses else 200)
                length = len(told.body) if told.told_length is None else told.told_length
                self.send_header("Content-Length", str(length))
                self.send_header("Last-Modified", "Mon, 02 Mar 2026 12:00:00 GMT")
                self.send_header("ETag", '"1"')
                self.end_headers()
                self.wfile.write(told.body)

            do_PUT = do_GET = do_HEAD = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        Thread(target=server.serve_forever, daemon=True).start()
        self._servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def answering():
    store = Answering()
    yield store
    store.stop()


def test_what_was_put_comes_back(store):
    store.put("a/b/one.jpg", b"\xff\xd8 bytes", "image/jpeg")

    assert store.get("a/b/one.jpg") == b"\xff\xd8 bytes"
    assert store.exists("a/b/one.jpg")


def test_a_file_is_stored_in_pieces_and_streamed_back(store):
    body = os.urandom(3 * 1024 * 1024 + 7)
    store.put("big", io.BytesIO(body), "application/octet-stream")

    pieces = list(store.stream("big"))

    assert b"".join(pieces) == body
    assert max(map(len, pieces)) <= 1024 * 1024


def test_the_start_of_an_object_comes_with_its_size(store):
    store.put("key", b"0123456789", "image/png")

    assert store.start_of("key", 4) == (b"0123", 10)
    assert store.start_of("key", 100) == (b"0123456789", 10)
    with pytest.raises(NotFound):
        store.start_of("missing", 4)


def test_a_second_put_replaces_the_first(store):
    store.put("key", b"old", "image/png")
    store.put("key", b"new", "image/png")

    assert store.get("key") == b"new"


def test_a_missing_object_is_not_found(store):
    assert not store.exists("nothing")
    with pytest.raises(NotFound):
        store.get("nothing")
    with pytest.raises(NotFound):
        store.stream("nothing")


def test_deleting_twice_is_fine(store):
    store.put("key", b"x", "image/png")
    store.delete("key")
    store.delete("key")

    assert not store.exists("key")


def test_preparing_twice_is_fine_and_then_it_is_healthy(store):
    store.prepare()
    store.check()


def test_a_stopped_s3_is_unavailable_not_missing():
    store = S3Storage(s3_settings("http://127.0.0.1:1"), "parts")

    with pytest.raises(StorageUnavailable):
        store.get("key")
    with pytest.raises(StorageUnavailable):
        store.put("key", b"x", "image/png")
    with pytest.raises(StorageUnavailable):
        store.check()


def test_an_s3_link_opens_without_a_key(s3_url):
    store = S3Storage(s3_settings(s3_url), "parts")
    store.prepare()
    store.put("maps/x.jpg", b"picture", "image/jpeg")

    answer = httpx.get(store.link("maps/x.jpg", file_name="x.jpg"))

    assert answer.content == b"picture"
    assert answer.headers["Content-Type"] == "image/jpeg"


def test_an_s3_link_names_the_host_that_browsers_know(s3_url):
    settings = s3_settings(s3_url, s3_public_endpoint_url="https://photos.plant.example")
    link = S3Storage(settings, "parts").link("maps/x.jpg", file_name="x.jpg")

    assert urlsplit(link).netloc == "photos.plant.example"


def test_without_an_endpoint_it_is_the_region_at_aws():
    settings = s3_settings(None, s3_region="eu-central-1")
    store = S3Storage(settings, "parts")

    host = "https://s3.eu-central-1.amazonaws.com/parts"
    assert store.link("maps/x.jpg", file_name="x.jpg").startswith(f"{host}/maps/x.jpg?")
    assert obstore.sign(store._photos, "GET", "maps/x.jpg", timedelta(60)).startswith(host)


def test_a_folder_gives_no_link_so_the_service_streams(tmp_path):
    assert LocalStorage(tmp_path).link("key", file_name="x") is None


def test_a_key_cannot_leave_the_folder(tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    store = LocalStorage(tmp_path / "objects")
    store.prepare()

    with pytest.raises(NotFound):
        store.get("../secret")


def test_a_failed_write_leaves_the_old_object_and_no_rest(tmp_path):
    class Breaks(io.BytesIO):
        def read(self, *_):
            raise OSError(28, "No space left on device")

    store = LocalStorage(tmp_path / "objects")
    store.prepare()
    store.put("key", b"old", "image/png")

    with pytest.raises(StorageUnavailable, match="No space left"):
        store.put("key", Breaks(), "image/png")

    assert store.get("key") == b"old"
    assert {path.name for path in (tmp_path / "objects").iterdir()} == {"key", ".defectscope"}


def test_a_folder_that_is_not_mounted_is_away_and_not_empty(tmp_path):
    folder = tmp_path / "objects"
    LocalStorage(folder).prepare()
    (folder / ".defectscope").unlink()  # what lies under a mount point

    with pytest.raises(StorageUnavailable):
        LocalStorage(folder).put("key", b"x", "image/png")
    with pytest.raises(StorageUnavailable):
        LocalStorage(folder).check()


def test_a_missing_bucket_is_unavailable_and_not_a_missing_photo(s3_url):
    store = S3Storage(s3_settings(s3_url), "never-made")

    with pytest.raises(StorageUnavailable):
        store.get("key")
    with pytest.raises(StorageUnavailable):
        store.put("key", b"x", "image/png")
    with pytest.raises(StorageUnavailable):
        store.exists("key")
    with pytest.raises(StorageUnavailable, match="never-made"):
        store.check()


def test_only_known_storage_urls_are_taken():
    with pytest.raises(ValueError, match="storage_url"):
        make_storage(Settings(storage_url="ftp://somewhere"))


def test_keys_of_maps_differ_by_attempt_so_a_late_worker_overwrites_nothing():
    original = image_key("org_1", "insp_1", "image/png", datetime(2026, 3, 2, tzinfo=UTC))

    assert original == "images/org_1/2026/03/02/insp_1.png"
    assert map_key(original, "aaaaaaaabbbb", "overlay") != map_key(original, "cccc0000", "overlay")
    assert map_key(original, "aaaaaaaabbbb", "overlay") == (
        "maps/org_1/2026/03/02/insp_1-aaaaaaaa-overlay.jpg"
    )


def test_a_client_can_put_exactly_the_announced_object_by_a_link(s3_url):
    store = S3Storage(s3_settings(s3_url), "parts")
    store.prepare()
    body = b"\x89PNG pixels"
    digest = sha256(body).hexdigest()

    link = store.upload_link("up/1.png", media_type="image/png", size=len(body), sha256=digest)

    # All that binds the object is signed, so a store that checks signatures takes no other.
    signed = parse_qs(urlsplit(link.url).query)["X-Amz-SignedHeaders"][0].split(";")
    assert {"content-length", "content-type", "x-amz-checksum-sha256"} <= set(signed)
    assert httpx.put(link.url, content=body, headers=link.headers).status_code == 200
    assert store.start_of("up/1.png", 100) == (body, len(body))


@pytest.mark.parametrize("as_file", [False, True])
def test_the_store_is_told_the_digest_of_what_it_gets(answering, as_file, tmp_path):
    body = b"\x89PNG pixels"
    (tmp_path / "one").write_bytes(body)

    with (tmp_path / "one").open("rb") as file:
        answering.store().put("one", file if as_file else body, "image/png")

    [(method, path, headers, sent)] = answering.requests
    assert (method, path, sent) == ("PUT", "/parts/one", body)
    assert headers["content-type"] == "image/png"
    assert headers["x-amz-checksum-sha256"] == b64encode(sha256(body).digest()).decode()
    assert "x-amz-checksum-sha256" in headers["authorization"]


def test_a_store_that_stumbles_once_is_asked_again(answering):
    answering.statuses = [503]
    answering.store().put("one", b"x", "image/png")

    assert [method for method, *_ in answering.requests] == ["PUT", "PUT"]


def test_a_store_that_refuses_a_photo_says_why_in_its_own_words(answering):
    answering.statuses = [403]
    answering.body = b"<Error><Code>ExpiredToken</Code></Error>"

    with pytest.raises(StorageUnavailable, match="ExpiredToken"):
        answering.store().get("one")


def test_a_store_that_ignores_ranges_is_understood(answering):
    answering.body = b"0123456789"

    assert answering.store().start_of("one", 4) == (b"0123", 10)


def test_what_others_are_told_by_the_environment_is_not_meant_for_photos(answering, monkeypatch):
    for name in ("AWS_SKIP_SIGNATURE", "AWS_UNSIGNED_PAYLOAD", "AWS_S3_EXPRESS"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")

    answering.store().put("one", b"x", "image/png")

    [(_, _, headers, _)] = answering.requests
    assert headers["x-amz-content-sha256"] == sha256(b"x").hexdigest()
    assert "Signature=" in headers["authorization"]


@pytest.mark.parametrize("status", [400, 403, 503])
def test_a_store_that_refuses_says_why_and_is_not_taken_for_empty(answering, status):
    store = answering.store()
    for act in (
        lambda: store.put("one", b"x", "image/png"),
        lambda: store.get("one"),
        lambda: store.stream("one"),
        lambda: store.start_of("one", 10),
        lambda: store.exists("one"),
        lambda: store.delete("one"),
        lambda: list(store.listed("images/")),
    ):
        answering.statuses = [status, status]
        with pytest.raises(StorageUnavailable, match=str(status)):
            act()


def test_a_bucket_in_another_region_is_named_as_the_reason(answering):
    answering.statuses = [301]
    with pytest.raises(StorageUnavailable, match="another region"):
        answering.store().get("one")


def test_a_store_that_says_nothing_is_away_after_a_while(answering, monkeypatch):
    monkeypatch.setattr(s3, "_ANSWER_SECONDS", 0.2)
    answering.is_silent = True
    store = answering.store()

    with pytest.raises(StorageUnavailable, match="cannot be reached"):
        store.put("one", b"x" * 100_000, "image/png")
    with pytest.raises(StorageUnavailable, match="cannot be reached"):
        store.get("one")


def test_an_object_that_breaks_off_is_no_object(answering, monkeypatch):
    monkeypatch.setattr(s3, "_ANSWER_SECONDS", 0.2)
    answering.body, answering.told_length = b"half", 8
    store = answering.store()

    with pytest.raises(StorageUnavailable):
        store.get("one")
    with pytest.raises(StorageUnavailable):
        list(store.stream("one"))


def test_a_photo_of_the_largest_size_is_one_request(answering):
    body = os.urandom(10 * 1024 * 1024)
    answering.store().put("one", body, "image/png")

    [(method, _, _, sent)] = answering.requests
    assert method == "PUT"
    assert sent == body


def test_all_pages_of_a_long_list_are_read(s3_url):
    store = S3Storage(s3_settings(s3_url), "long-list")
    store.prepare()
    for number in range(1005):
        store.put(f"images/{number}", b"", "image/png")
    store.put("imagesque", b"", "image/png")

    listed = list(store.listed("images/"))

    assert {entry.key for entry in listed} == {f"images/{number}" for number in range(1005)}
    assert abs((datetime.now(UTC) - listed[0].changed_at).total_seconds()) < 3600


def test_the_authority_that_boto3_trusts_is_trusted(answering, monkeypatch, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    url = answering.over_tls(authority)

    with pytest.raises(StorageUnavailable):
        S3Storage(s3_settings(url), "parts").put("one", b"x", "image/png")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    store = S3Storage(s3_settings(url), "parts")
    store.put("one", b"x", "image/png")
    store.check()

    assert [method for method, *_ in answering.requests] == ["PUT", "HEAD"]


def test_without_credentials_there_is_no_store(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    with pytest.raises(ValueError, match="no credentials for S3"):
        make_storage(Settings(storage_url="s3://parts"))


def test_a_folder_has_no_links_to_put_to(tmp_path):
    store = LocalStorage(tmp_path)
    assert store.upload_link("k", media_type="image/png", size=1, sha256="00" * 32) is None


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    store = LocalStorage(tmp_path / "objects")
    store.prepare()
    store.put("images/org/2026/11/28/one.png", b"photo", "image/png")
    scandir = os.scandir

    def guarded(folder):
        if str(folder).endswith("28"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)

    with pytest.raises(StorageUnavailable):
        list(store.listed("images/"))
    assert list(store.listed("maps/")) == []
