"""From a claim to recorded verdicts: one batch at a time in each slot.

Several slots work at once, so one fetches and decodes while another infers and
a third writes. A batch is whatever is queued when a slot becomes free: one
photo on an idle line, many while the models are busy.
"""

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256
from typing import TypeVar

import numpy as np
import structlog
from sqlalchemy.orm import Session

from shared import claiming, inspections
from shared.claiming import Batch, Claimed
from shared.db import transaction
from shared.errors import (
    DatabaseUnavailable,
    DefectScopeError,
    NotANumber,
    NotFound,
    Rejected,
    StorageUnavailable,
    Unavailable,
)
from shared.inspections import Failure, Recorded
from shared.queue import Ringer, tell_finished
from shared.settings import Settings
from shared.shadows import ShadowJudgement
from shared.storage import storage
from shared.storage.keys import map_key
from worker.decoding import Decoder, DecodersBroken
from worker.inspect.pipeline import Inspector, Judgement
from worker.inspect.preprocess import SIDE, Photo, measure_quality
from worker.leases import Leases
from worker.models import LoadedModel, Models
from worker.shadowing import judge_in_shadow

log = structlog.stdlib.get_logger()

_PAUSE = timedelta(seconds=2)
"""Before a photo that cannot be judged now is looked at again; longer if it has waited long."""
_REFUSALS = 120
"""Of a photo by a store that gives others, an hour or so, until a person has to look."""
_OTHERS_GIVEN_SECONDS = 60.0
_RECORD_TRIES = 5
_NOTHING = np.zeros((SIDE, SIDE, 3), np.uint8)


_T = TypeVar("_T")


@dataclass(frozen=True)
class _Ready:
    """A claimed photo, decoded."""

    claimed: Claimed
    photo: Photo
    fetch_ms: float
    decode_ms: float


@dataclass(frozen=True)
class _Judged:
    """A photo with its verdict, not stored yet."""

    ready: _Ready
    model: LoadedModel
    judgement: Judgement
    infer_ms: float
    shadow: ShadowJudgement | None


@dataclass(frozen=True)
class _Setback:
    """A photo that cannot be judged now: `is_its_fault` spends the attempt."""

    claimed: Claimed
    error: Exception
    is_its_fault: bool


class _OriginalRefused(StorageUnavailable):
    """The store does not give this photo; whether it gives others is another question."""

    code = "image_refused"


class _EngineBroken(Exception):
    """The engine fails on an empty photo, too: a GPU that fell off the bus, memory that is gone."""


_BROKEN = (DecodersBroken, _EngineBroken)
"""What only another process can mend. No photo pays for it with an attempt."""


class Judging:
    """Claims, judges and records for this worker process."""

    def __init__(
        self,
        settings: Settings,
        models: Models,
        leases: Leases,
        decoder: Decoder,
        bell: Ringer,
        worker: str,
    ) -> None:
        self._settings = settings
        self._models = models
        self._decoder = decoder
        self._leases = leases
        self._deliverers = bell
        self._worker = worker
        self._stopping = threading.Event()
        self._slots = threading.BoundedSemaphore(settings.slots)
        self._last_source = ""
        self._last_given = -math.inf
        self._io = ThreadPoolExecutor(max_workers=8, thread_name_prefix="io")

    def stop(self) -> None:
        """Take no further batch; those in work are finished."""
        self._stopping.set()

    def drain(self) -> None:
        """Judge until nothing is queued. What a bell starts."""
        # Waited for: whoever is in the slot may have found the queue empty a moment ago.
        with self._slots:
            self._drain()

    def look(self) -> None:
        """Judge what is queued, if a slot is free. Done now and then, so that photos whose bell
        nobody heard wait a moment only: while Redis is away, and until Celery has found it again.
        """
        if self._slots.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._slots.release()

    def _drain(self) -> None:
        while not self._stopping.is_set():
            try:
                with transaction() as session:
                    batch = claiming.claim(
                        session,
                        limit=self._settings.batch_size or self._models.batch_size,
                        lease=self._settings.lease,
                        worker=self._worker,
                        after=self._last_source,
                    )
            except DatabaseUnavailable as error:
                # The next look finds what waits when the database is back.
                log.warning("claim_failed", error=str(error))
                return
            if batch is None:
                return
            self._last_source = batch.last_source
            with self._leases.kept(batch):
                if self._judge(batch):
                    # The world is away: going on would only claim and give back as fast as the
                    # database can. The next look finds them.
                    return

    def _judge(self, batch: Batch) -> bool:
        """Judge the batch as far as possible; True if all of it failed for the world's fault."""
        ready, setbacks = self._fetch(batch.inspections)
        judged, more = self._infer(ready)
        stored, still_more = self._store(batch.token, judged)
        self._record(batch, stored)
        setbacks = [*setbacks, *more, *still_more]
        self._settle(batch, setbacks)
        if broken := [s.error for s in setbacks if isinstance(s.error, _BROKEN)]:
            # Going on would fail all that is queued, faster than others can judge it.
            log.critical("worker_broken", error=repr(broken[0]))
            self._leases.give_up()
        return not stored and not any(setback.is_its_fault for setback in setbacks)

    def _fetch(self, claimed: Sequence[Claimed]) -> tuple[list[_Ready], list[_Setback]]:
        def fetch(one: Claimed) -> _Ready | _Setback:
            started = time.perf_counter()
            try:
                data = storage().get(one.image_key)
                fetched = time.perf_counter()
                self._last_given = fetched
                if sha256(data).hexdigest() != one.image_sha256:
                    raise Rejected(
                        "The original in storage is not the photo that was submitted: its digest "
                        "is another. Send it again.",
                        code="image_changed",
                    )
                photo = self._decoder.prepare(data)
            except NotFound:
                return self._lost(one)
            except StorageUnavailable as error:
                return _Setback(one, _OriginalRefused(str(error)), is_its_fault=False)
            except DecodersBroken as error:
                return _Setback(one, error, is_its_fault=False)
            except Exception as error:
                return _Setback(one, error, is_its_fault=True)
            return _Ready(one, photo, _ms(started, fetched), _ms(fetched, time.perf_counter()))

        return _split(list(self._io.map(fetch, claimed)), _Ready)

    def _lost(self, one: Claimed) -> _Setback:
        """The photo is gone for good only if the store itself is sound."""
        try:
            storage().check()
        except StorageUnavailable as error:
            return _Setback(one, error, is_its_fault=False)
        gone = Rejected("The original is no longer in storage.", code="image_missing")
        return _Setback(one, gone, is_its_fault=True)

    def _infer(self, ready: Sequence[_Ready]) -> tuple[list[_Judged], list[_Setback]]:
        judged: list[_Judged] = []
        setbacks: list[_Setback] = []
        # One pass for all products that share an engine, which is nearly always all.
        groups: dict[int, list[tuple[_Ready, LoadedModel]]] = {}
        for one in ready:
            try:
                model = self._models.get(one.claimed.model_version_id)
            except Unavailable as error:
                setbacks.append(_Setback(one.claimed, error, is_its_fault=False))
            except Exception as error:
                setbacks.append(_Setback(one.claimed, error, is_its_fault=True))
            else:
                groups.setdefault(id(model.inspector.engine), []).append((one, model))
        for group in groups.values():
            inspector = group[0][1].inspector
            photos = [one.photo for one, _ in group]
            try:
                started = time.perf_counter()
                maps = inspector.features(photos)
                judgements = inspector.judge(photos, [model.product for _, model in group], maps)
                infer_ms = _ms(started, time.perf_counter())
                shadows = judge_in_shadow(
                    self._models,
                    photos,
                    [one.claimed.shadow_version_id for one, _ in group],
                    maps,
                    inspector.engine,
                )
            except Exception as error:
                log.exception("inference_failed", images=len(group))
                cause = error if _is_sound(inspector) else _EngineBroken(repr(error))
                is_its_fault = cause is error
                setbacks += [_Setback(one.claimed, cause, is_its_fault) for one, _ in group]
                continue
            for (one, model), judgement, shadow in zip(group, judgements, shadows, strict=True):
                if judgement.scores.are_finite:
                    judged.append(_Judged(one, model, judgement, infer_ms, shadow))
                else:
                    setbacks.append(_Setback(one.claimed, NotANumber(), is_its_fault=True))
        return judged, setbacks

    def _store(
        self, token: str, judged: Sequence[_Judged]
    ) -> tuple[list[Recorded], list[_Setback]]:
        started = time.perf_counter()

        def put(one: _Judged, name: str, draw: Callable[[], bytes]) -> str:
            key = map_key(one.ready.claimed.image_key, token, name)
            storage().put(key, draw(), "image/jpeg")
            return key

        # Both at once: on an idle line somebody waits for them.
        pictures = [
            (
                self._io.submit(put, one, "overlay", one.judgement.overlay),
                self._io.submit(put, one, "anomaly-map", one.judgement.anomaly_map),
            )
            for one in judged
        ]

        def store(one: _Judged, maps: tuple[Future[str], Future[str]]) -> Recorded | _Setback:
            claimed, judgement = one.ready.claimed, one.judgement
            try:
                regions = judgement.anomaly_regions()
                overlay, anomaly_map = (picture.result() for picture in maps)
            except StorageUnavailable as error:
                return _Setback(claimed, error, is_its_fault=False)
            except Exception as error:
                return _Setback(claimed, error, is_its_fault=True)
            return Recorded(
                id=claimed.id,
                scores=judgement.scores,
                outcome=judgement.outcome,
                engine=one.model.inspector.engine.name,
                overlay_key=overlay,
                anomaly_map_key=anomaly_map,
                anomaly_regions=regions,
                timings_ms={
                    "queued": claimed.queued_ms,
                    "fetch": one.ready.fetch_ms,
                    "decode": one.ready.decode_ms,
                    "infer": one.infer_ms,
                    "record": _ms(started, time.perf_counter()),
                },
                shadow=one.shadow,
            )

        return _split(list(map(store, judged, pictures)), Recorded)

    def _record(self, batch: Batch, results: Sequence[Recorded]) -> None:
        if not results:
            return
        written, is_certain = self._persist(
            lambda: self._write(batch.token, results), "record_delayed"
        )
        # After an uncertain commit all are told: waking up for nothing costs one look.
        if told := written if is_certain else [result.id for result in results]:
            self._tell(told)
        log.info(
            "batch_judged",
            images=len(batch.inspections),
            recorded=len(written or ()),
            infer_ms=results[0].timings_ms["infer"],
        )
        if is_certain and written is not None:
            for result in results:
                if result.id not in written:
                    self._discard(result)

    def _tell(self, ids: Iterable[str]) -> None:
        """Wake those who wait for these, and those who tell others of them."""
        tell_finished(ids)
        self._deliverers.ring()

    def _write(self, token: str, results: Sequence[Recorded]) -> frozenset[str]:
        with transaction() as session:
            return inspections.record(session, token=token, results=results, worker=self._worker)

    def _persist(
        self, write: Callable[[], frozenset[str]], event: str
    ) -> tuple[frozenset[str] | None, bool]:
        """Try until the database is back, while the lease lasts; (answer, it was the first try).

        After a failed try nobody knows whether it was committed; the fence
        makes the next try harmless, but its answer is then no proof.
        """
        for attempt in range(_RECORD_TRIES):
            try:
                return write(), attempt == 0
            except DatabaseUnavailable as error:
                log.warning(event, error=str(error), attempt=attempt + 1)
                time.sleep(1)
        return None, False

    def _discard(self, result: Recorded) -> None:
        """Somebody else has this photo, or it was canceled: our maps belong to nobody."""
        log.info("verdict_not_ours", inspection=result.id)
        try:
            storage().delete(result.overlay_key)
            storage().delete(result.anomaly_map_key)
        except DefectScopeError as error:
            log.warning("orphan_left", inspection=result.id, error=str(error))

    def _settle(self, batch: Batch, setbacks: Sequence[_Setback]) -> None:
        """Fail what no attempt can judge; give the rest back, each to be judged alone."""
        if not setbacks:
            return
        failures = [
            Failure(setback.claimed.id, *_reason(setback.error))
            for setback in setbacks
            if setback.is_its_fault and self._is_final(setback)
        ]
        failed = {failure.id for failure in failures}
        unsettled = [setback for setback in setbacks if setback.claimed.id not in failed]

        def write() -> frozenset[str]:
            with transaction() as session:
                refused = self._refused_for_good(session, unsettled)
                ended = inspections.fail(
                    session, token=batch.token, failures=[*failures, *refused], worker=self._worker
                )
                again = [s for s in unsettled if s.claimed.id not in ended]
                for (code, is_its_fault), group in _by_reason(again).items():
                    inspections.give_back(
                        session,
                        token=batch.token,
                        ids=[setback.claimed.id for setback in group],
                        worker=self._worker,
                        code=code,
                        why=repr(group[0].error),
                        spend_attempt=is_its_fault,
                        alone=is_its_fault,
                        delay=timedelta(0) if is_its_fault else _PAUSE,
                    )
                return ended

        ended, _ = self._persist(write, "settle_delayed")
        if ended:
            self._tell(ended)
        for setback in setbacks:
            log.warning("photo_set_back", inspection=setback.claimed.id, error=repr(setback.error))

    def _refused_for_good(self, session: Session, setbacks: Sequence[_Setback]) -> list[Failure]:
        """Photos that a sound store has refused for so long that waiting will not mend it."""
        refused = {
            setback.claimed.id: setback.error
            for setback in setbacks
            if isinstance(setback.error, _OriginalRefused)
        }
        if not refused or time.perf_counter() - self._last_given > _OTHERS_GIVEN_SECONDS:
            return []
        often = inspections.given_back_often(
            session, refused, code=_OriginalRefused.code, times=_REFUSALS
        )
        return [
            Failure(
                id_,
                _OriginalRefused.code,
                f"The storage gives other photos, but not this one: {refused[id_]} Send it again.",
            )
            for id_ in often
        ]

    def _is_final(self, setback: _Setback) -> bool:
        """A broken photo stays broken; a crash gets its remaining attempts."""
        return (
            isinstance(setback.error, Rejected)
            or setback.claimed.attempts >= self._settings.max_attempts
        )


def _is_sound(inspector: Inspector) -> bool:
    try:
        inspector.features([Photo(_NOTHING, measure_quality(_NOTHING))])
    except Exception:
        log.exception("engine_broken")
        return False
    return True


def _split(outcomes: Sequence[_T | _Setback], kind: type[_T]) -> tuple[list[_T], list[_Setback]]:
    return (
        [outcome for outcome in outcomes if isinstance(outcome, kind)],
        [outcome for outcome in outcomes if isinstance(outcome, _Setback)],
    )


def _reason(error: Exception) -> tuple[str, str]:
    if isinstance(error, DefectScopeError):
        return error.code, str(error)
    return "inspection_error", f"The models failed on this photo ({type(error).__name__})."


def _by_reason(setbacks: Iterable[_Setback]) -> dict[tuple[str, bool], list[_Setback]]:
    groups: dict[tuple[str, bool], list[_Setback]] = {}
    for setback in setbacks:
        key = _reason(setback.error)[0], setback.is_its_fault
        groups.setdefault(key, []).append(setback)
    return groups


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 1)
