"""The Python client: one file, httpx only; copy it into a line controller if you like.

    with DefectScope("http://127.0.0.1:8000", api_key) as scope:
        inspection = scope.inspect("part.jpg", serial="SN1", lot="L7")
        if inspection.disposition != "pass":
            divert(inspection)

A submission that fails for a passing reason is sent again with the same
Idempotency-Key, so it never becomes two inspections.
"""

import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

_RETRIED = frozenset({429, 502, 503, 504})
_TERMINAL = frozenset({"succeeded", "failed", "canceled"})
_LONGEST_PAUSE_SECONDS = 60.0
"""Whatever Retry-After says: somebody's maintenance page must not hold up a line for an hour."""
_SLACK_SECONDS = 1.0
"""What an attempt gets beyond the time that is left: for the answer to a wait that lasts until
then, and for the one attempt that is always made."""


class DefectScopeApiError(Exception):
    """The service answered with a problem document."""

    def __init__(self, status: int, code: str, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        """Stable: branch on this."""
        self.detail = detail
        self.field = field


class DefectScopeUnreachable(Exception):
    """The service could not be reached, or did not answer in time, on any attempt."""


@dataclass(frozen=True)
class Inspection:
    """One photo and its outcome; `document` has everything the API said."""

    id: str
    status: str
    verdict: str | None
    """good, defective, undecidable; None until it has succeeded."""
    disposition: str | None
    """pass, reject, hold: what to do with the part."""
    needs_review: bool
    review_reasons: tuple[str, ...]
    defect_probability: float | None
    anomaly_score: float | None
    document: Mapping[str, Any]

    @property
    def is_finished(self) -> bool:
        return self.status in _TERMINAL

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        classifier, autoencoder = document["classifier"], document["autoencoder"]
        return cls(
            id=document["id"],
            status=document["status"],
            verdict=document["verdict"],
            disposition=document["disposition"],
            needs_review=document["needs_review"],
            review_reasons=tuple(document["review_reasons"]),
            defect_probability=classifier["defect_probability"] if classifier else None,
            anomaly_score=autoencoder["anomaly_score"] if autoencoder else None,
            document=document,
        )


class DefectScope:
    """A connection to the service. Safe to share between threads."""

    def __init__(
        self,
        url: str,
        api_key: str,
        *,
        attempts: int = 5,
        timeout_seconds: float = 30,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        # A file ends with a newline. What no header may hold would stand in an error, key and all.
        api_key = api_key.strip()
        if not re.fullmatch(r"[!-~]*", api_key):
            raise ValueError("The API key has characters that are in no key.")
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {api_key}"},
            timeout=timeout_seconds,
            transport=transport,
        )
        self._attempts = attempts
        self._sleep = sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        photo: str | Path | bytes,
        *,
        product: str | None = None,
        serial: str | None = None,
        lot: str | None = None,
        line: str | None = None,
        station: str | None = None,
        captured_at: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        priority: int | None = None,
        wait_seconds: int = 0,
        idempotency_key: str | None = None,
        timeout_seconds: float | None = None,
    ) -> Inspection:
        """Submit a photo; with `wait_seconds`, come back when it is judged or the time is over.

        Raises DefectScopeApiError where the service refuses it, DefectScopeUnreachable when every
        attempt failed, and TimeoutError where `timeout_seconds` were not enough for all of them:
        then the photo may have been accepted.
        """
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        data = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        name = "photo" if isinstance(photo, bytes) else Path(photo).name
        fields: dict[str, Any] = {
            "product": product,
            "serial": serial,
            "lot": lot,
            "line": line,
            "station": station,
            "captured_at": captured_at,
            "metadata": json.dumps(metadata) if metadata is not None else None,
            "priority": priority,
        }
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        if wait_seconds:
            headers["Prefer"] = f"wait={wait_seconds}"
        answer = self._send(
            "POST",
            "/v1/inspections",
            headers=headers,
            files={"file": (name, data)},
            data={name: str(value) for name, value in fields.items() if value is not None},
            extra_seconds=wait_seconds,
            until=until,
        )
        document = answer.json()
        if "status" not in document:
            # Accepted, but the database went away before the service could read it back.
            return self._get(document["id"], until=until)
        return Inspection.of(document)

    def submit_batch(
        self,
        photos: Sequence[str | Path],
        *,
        batch_id: str | None = None,
        idempotency_key: str | None = None,
        **fields: Any,
    ) -> Mapping[str, Any]:
        """Submit up to 100 photos, 64 MB in all, in one request; fields hold for all of them.

        `batch_id`: add to this batch. Returns its `id` and what became of each photo (`items`).
        """
        parts = [("file", (Path(photo).name, Path(photo).read_bytes())) for photo in photos]
        if fields.get("metadata") is not None:
            fields["metadata"] = json.dumps(fields["metadata"])
        given = {"batch_id": batch_id, **fields}
        answer: Mapping[str, Any] = self._send(
            "POST",
            "/v1/batches",
            headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
            files=parts,
            data={name: str(value) for name, value in given.items() if value is not None},
        ).json()
        return answer

    def batch(self, batch_id: str) -> Mapping[str, Any]:
        """How far a batch is: counts by status, verdict and disposition."""
        answer: Mapping[str, Any] = self._send("GET", f"/v1/batches/{batch_id}").json()
        return answer

    def inspect(
        self, photo: str | Path | bytes, *, timeout_seconds: float = 60, **fields: Any
    ) -> Inspection:
        """Submit a photo and come back with its outcome.

        Raises as `submit`, and TimeoutError about `timeout_seconds` later at most.
        """
        until = time.monotonic() + timeout_seconds
        inspection = self.submit(
            photo,
            wait_seconds=max(1, min(20, int(timeout_seconds))),
            timeout_seconds=timeout_seconds,
            **fields,
        )
        if inspection.is_finished:
            return inspection
        return self.wait(inspection.id, timeout_seconds=max(0, until - time.monotonic()))

    def get(self, inspection_id: str, *, wait_seconds: float = 0) -> Inspection:
        return self._get(inspection_id, wait_seconds=wait_seconds)

    def _get(
        self, inspection_id: str, *, wait_seconds: float = 0, until: float | None = None
    ) -> Inspection:
        answer = self._send(
            "GET",
            f"/v1/inspections/{inspection_id}",
            params={"wait": wait_seconds} if wait_seconds else None,
            extra_seconds=wait_seconds,
            until=until,
        )
        return Inspection.of(answer.json())

    def wait(self, inspection_id: str, *, timeout_seconds: float = 60) -> Inspection:
        """The inspection once it is finished. Raises TimeoutError."""
        until = time.monotonic() + timeout_seconds
        while True:
            left = until - time.monotonic()
            inspection = self._get(inspection_id, wait_seconds=max(0, min(20, left)), until=until)
            if inspection.is_finished:
                return inspection
            if left <= 0:
                raise TimeoutError(
                    f"{inspection_id} is still {inspection.status} after {timeout_seconds} s"
                )

    def inspections(self, **filters: str | int) -> Iterator[Inspection]:
        """All inspections that match, newest first; filters as in `GET /v1/inspections`."""
        return map(Inspection.of, self._pages("/v1/inspections", "inspections", filters))

    def cancel(self, inspection_id: str) -> Inspection:
        return Inspection.of(self._send("POST", f"/v1/inspections/{inspection_id}/cancel").json())

    def picture(self, inspection_id: str, kind: str = "overlay") -> bytes:
        """The bytes of `image`, `overlay` or `anomaly-map`."""
        answer = self._send("GET", f"/v1/inspections/{inspection_id}/{kind}")
        if answer.is_redirect:
            # A storage link carries its own signature; our key is not for the store to see.
            try:
                answer = httpx.get(answer.headers["Location"], timeout=self._http.timeout)
                answer.raise_for_status()
            except httpx.HTTPError as error:
                raise DefectScopeUnreachable(f"the picture's storage link: {error}") from error
        return answer.content

    def publish(
        self,
        bundle: str | Path,
        *,
        activate: bool = False,
        shadow: bool = False,
        on_file: Callable[[str], None] = print,
    ) -> Mapping[str, Any]:
        """Publish a bundle folder; files that the service has already are not sent again.

        `activate` judges photos with it from now on, `shadow` beside the active version
        without telling anybody. `on_file` is told each file that is sent. Returns the
        version.
        """
        folder = Path(bundle)
        manifest = json.loads((folder / "manifest.json").read_bytes())
        for name in ("backbone", "model", "reference", "quantised"):
            artifact = manifest[name]
            if artifact is None:
                continue
            path = f"/v1/artifacts/{artifact['sha256']}"
            try:
                self._send("HEAD", path)
            except DefectScopeApiError as error:
                if error.status != 404:
                    raise
                on_file(artifact["file"])
                self._send("PUT", path, content=_find(folder, artifact["file"]).read_bytes())
        product = manifest["product"]
        version: dict[str, Any] = self._send(
            "POST", f"/v1/products/{product}/versions", json=manifest
        ).json()
        if activate:
            self.activate(product, version["version"])
            version["is_active"] = True
        if shadow:
            self.start_shadow(product, version["version"])
            version["is_shadow"] = True
        return version

    def products(self) -> list[Mapping[str, Any]]:
        """The products, each with its active and its shadow version."""
        products: list[Mapping[str, Any]] = self._send("GET", "/v1/products").json()["products"]
        return products

    def activate(self, product: str, version: int) -> Mapping[str, Any]:
        """Judge photos by this version from now on. Returns the product."""
        return self._product("POST", product, f"/versions/{version}/activate")

    def roll_back(self, product: str) -> Mapping[str, Any]:
        """Activate the version that was active before the present one. Returns the product."""
        active = next(
            (one["active_version"] for one in self.products() if one["name"] == product), None
        )
        # With the version to leave, an attempt whose answer was lost does not go back twice.
        return self._product(
            "POST", product, "/rollback", params={"from_version": active} if active else None
        )

    def set_retention(self, product: str, days: int | None) -> Mapping[str, Any]:
        """Keep pictures for so many days after their verdict; None: for ever."""
        return self._product("PUT", product, "/retention", json={"days": days})

    def create_key(
        self,
        *,
        name: str,
        scopes: Sequence[str],
        expires_at: datetime | None = None,
        requests_per_second: int | None = None,
        max_queued: int | None = None,
    ) -> Mapping[str, Any]:
        """A new key; `key` in the answer is shown this once."""
        body = {
            "name": name,
            "scopes": list(scopes),
            "expires_at": expires_at and expires_at.isoformat(),
            "requests_per_second": requests_per_second,
            "max_queued": max_queued,
        }
        made: Mapping[str, Any] = self._send("POST", "/v1/keys", json=body).json()
        return made

    def keys(self) -> Sequence[Mapping[str, Any]]:
        """All keys, oldest first, without their secrets."""
        listed: Sequence[Mapping[str, Any]] = self._send("GET", "/v1/keys").json()["keys"]
        return listed

    def revoke_key(self, key_id: str) -> None:
        """At once, for good."""
        self._send("DELETE", f"/v1/keys/{quote(key_id, safe='')}")

    def start_shadow(self, product: str, version: int) -> Mapping[str, Any]:
        """Judge photos by this version too, and tell nobody. Returns the product."""
        return self._product("POST", product, f"/versions/{version}/shadow")

    def stop_shadow(self, product: str) -> None:
        self._send("DELETE", f"{_path(product)}/shadow")

    def shadow(self, product: str) -> Mapping[str, Any]:
        """How the shadow compares with the active version, in numbers."""
        return self._product("GET", product, "/shadow")

    def disagreements(self, product: str, *, page_size: int = 50) -> Iterator[Mapping[str, Any]]:
        """Inspections of which shadow and active version disagree, newest first."""
        yield from self._pages(
            f"{_path(product)}/shadow/disagreements", "disagreements", {"page_size": page_size}
        )

    def _product(self, method: str, product: str, rest: str, **request: Any) -> Mapping[str, Any]:
        document: dict[str, Any] = self._send(method, _path(product) + rest, **request).json()
        return document

    def _pages(
        self, path: str, noun: str, params: Mapping[str, str | int]
    ) -> Iterator[Mapping[str, Any]]:
        token = ""
        while True:
            page = self._send("GET", path, params={**params, "page_token": token}).json()
            yield from page[noun]
            token = page["next_page_token"]
            if not token:
                return

    def _send(
        self,
        method: str,
        path: str,
        *,
        extra_seconds: float = 0,
        until: float | None = None,
        **request: Any,
    ) -> httpx.Response:
        """`until`: by the monotonic clock; no attempt and no pause begins after it."""
        trouble = ""
        for attempt in range(self._attempts):
            if attempt and until is not None and time.monotonic() >= until:
                raise TimeoutError(f"{method} {path} was not answered in time; last: {trouble}")
            try:
                answer = self._http.request(
                    method, path, timeout=self._timeout(extra_seconds, until), **request
                )
            except httpx.TransportError as error:
                trouble = f"{type(error).__name__}: {error}"
                self._pause(attempt, None, until)
                continue
            if answer.status_code in _RETRIED:
                trouble = f"HTTP {answer.status_code}: {_detail(answer)[1]}"
                self._pause(attempt, answer.headers.get("Retry-After"), until)
                continue
            if answer.status_code >= 400:
                code, detail, field = _detail(answer)
                raise DefectScopeApiError(answer.status_code, code, detail, field)
            if answer.is_redirect:
                target = answer.headers.get("Location", "nowhere")
                raise DefectScopeApiError(
                    answer.status_code,
                    "redirected",
                    f"{answer.url} sends us to {target}: use that.",
                )
            return answer
        raise DefectScopeUnreachable(
            f"{method} {path} failed {self._attempts} times; last: {trouble}"
        )

    def _timeout(self, extra_seconds: float, until: float | None) -> httpx.Timeout:
        timeout = httpx.Timeout(self._http.timeout)
        if timeout.read is not None:
            timeout.read += extra_seconds
        if until is None:
            return timeout
        left = max(0.0, until - time.monotonic()) + _SLACK_SECONDS
        parts = timeout.as_dict()
        return httpx.Timeout(
            **{name: left if part is None else min(part, left) for name, part in parts.items()}
        )

    def _pause(self, attempt: int, retry_after: str | None, until: float | None) -> None:
        if attempt + 1 >= self._attempts:
            return
        wished = float(retry_after) if retry_after and retry_after.isdigit() else 0.0
        # Jitter: a hundred stations that lost the service together must not return together.
        seconds = max(wished, 0.2 * 2**attempt) * random.uniform(1.0, 1.3)  # noqa: S311
        seconds = min(seconds, _LONGEST_PAUSE_SECONDS)
        if until is not None:
            seconds = min(seconds, max(0.0, until - time.monotonic()))
        self._sleep(seconds)


def _path(product: str) -> str:
    return f"/v1/products/{quote(product, safe='')}"


def _detail(answer: httpx.Response) -> tuple[str, str, str | None]:
    try:
        body = answer.json()
        return body["code"], body["detail"], body.get("field")
    except (ValueError, KeyError, TypeError):
        return "unknown", answer.text[:200] or answer.reason_phrase, None


def _find(bundle: Path, name: str) -> Path:
    """A file of the bundle; the backbone may lie beside the folder, where bundles share it."""
    inside = bundle / name
    return inside if inside.exists() else bundle.resolve().parent / name
