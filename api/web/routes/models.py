"""Pages about products and their models: versions, figures, thresholds and what others would do."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from api.problems import status_of
from api.product_schemas import ProductOut, RetentionIn
from api.routes import products as products_api
from api.routes import shadows as shadows_api
from api.routes import thresholds as thresholds_api
from api.routes.products import Name, VersionNumber
from api.threshold_schemas import AuditIn
from api.web import curves, drawing, forms, metric_words, sliders
from api.web.curves import Curves
from api.web.rendering import page
from api.web.visiting import AdminVisitor, LookerVisitor, PageRoute
from shared import keys, products, reviews, shadows, thresholds, version_cards, what_if
from shared.db import transaction
from shared.errors import Conflict, InvalidInput, PreconditionFailed
from shared.manifest import Thresholds
from shared.reviews import Filters
from shared.sessions import Visitor
from shared.tables import Activation, ModelVersion
from shared.verdicts import Verdict
from shared.what_if import Judged

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_FEW = 5
"""Fewer good or defective parts than that make no curve."""
_BINS = 40
_VERSIONS = 20
"""As many to a page."""
_DONE = {
    "activated": "Photos that are accepted from now on are judged by this version.",
    "rolled-back": "The version before is active again.",
    "thresholds": "These thresholds are in force. A rollback takes the change back.",
    "same": "These thresholds were in force already, so nothing was changed.",
    "audit": "From now on people see this share of the parts that pass.",
    "retention": "Pictures are kept for so long from now on.",
    "shadow": "It judges the same photos from now on, and nobody is told what it says.",
    "no-shadow": "The shadow has ended.",
}
_Refused = (Conflict, InvalidInput, PreconditionFailed)


@router.get("/models")
def list_models(request: Request, visitor: LookerVisitor) -> Response:
    organisation_id = visitor.caller.organisation_id
    with transaction() as session:
        rows = [
            {
                "product": ProductOut.of(row),
                "versions": products.count_versions(session, row),
                "waiting": reviews.count_waiting(
                    session, organisation_id=organisation_id, filters=Filters(product=row.name)
                ),
            }
            for row in products.list_products(session, organisation_id)
        ]
    return page(request, "models.html", rows=rows)


@router.get("/models/{name}")
def show(
    request: Request,
    visitor: LookerVisitor,
    name: Name,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    page_token: Annotated[str, Query(max_length=200)] = "",
    did: str = "",
) -> Response:
    return _show(
        request,
        visitor,
        name,
        notice=_DONE.get(did, ""),
        version=version,
        page_token=page_token,
    )


@router.get("/models/{name}/what-if")
def ask(request: Request, visitor: LookerVisitor, name: Name) -> Response:
    """Part of the page: what the thresholds of the sliders would do."""
    given = _given(request.query_params)
    with transaction() as session:
        product = products.get_product(
            session, organisation_id=visitor.caller.organisation_id, name=name
        )
        active = thresholds.active_of(session, product)
        judged = what_if.read_judged(session, product, active, since=None)
    present = Thresholds.model_validate(active.thresholds)
    try:
        answer = _what_if(judged, present, sliders.proposed(present, given))
    except InvalidInput as error:
        return page(request, "_what_if.html", refused=str(error))
    is_stale = request.query_params.get("etag", active.digest) != active.digest
    return page(request, "_what_if.html", refused="", is_stale=is_stale, **answer)


@router.post("/models/{name}/thresholds")
def change_thresholds(request: Request, visitor: AdminVisitor, name: Name) -> Response:
    given = _given({field: forms.text(request, field) for field in sliders.NAMES})
    etag = forms.text(request, "etag")
    try:
        with transaction() as session:
            product = products.get_product(
                session, organisation_id=visitor.caller.organisation_id, name=name
            )
            active = thresholds.active_of(session, product)
        asked = sliders.proposed(Thresholds.model_validate(active.thresholds), given)
        after = thresholds_api.change(name, visitor.caller, Response(), asked, etag)
    except PreconditionFailed as error:
        return _show(
            request,
            visitor,
            name,
            problem=f"{error} Nothing was changed; below your values are held against those that "
            "are in force now.",
            status=HTTPStatus.PRECONDITION_FAILED,
            given=given,
        )
    except _Refused as error:
        return _refuse(request, visitor, name, error, given=given)
    return forms.done(f"/models/{name}", did="same" if after.digest == etag else "thresholds")


@router.post("/models/{name}/versions/{version}/activate")
def activate(visitor: AdminVisitor, name: Name, version: VersionNumber) -> Response:
    products_api.activate(name, version, visitor.caller)
    return forms.done(f"/models/{name}", did="activated")


@router.post("/models/{name}/rollback")
def roll_back(request: Request, visitor: AdminVisitor, name: Name) -> Response:
    leaving = forms.text(request, "from_version")
    try:
        if not (leaving.isascii() and leaving.isdigit() and len(leaving) < 10):
            raise InvalidInput("Say which version to leave.", field="from_version")
        products_api.roll_back(name, visitor.caller, int(leaving))
    except _Refused as error:
        return _refuse(request, visitor, name, error)
    return forms.done(f"/models/{name}", did="rolled-back")


@router.post("/models/{name}/versions/{version}/shadow")
def start_shadow(
    request: Request, visitor: AdminVisitor, name: Name, version: VersionNumber
) -> Response:
    try:
        shadows_api.start(name, version, visitor.caller)
    except _Refused as error:
        return _refuse(request, visitor, name, error)
    return forms.done(f"/models/{name}", did="shadow")


@router.post("/models/{name}/shadow/stop")
def stop_shadow(visitor: AdminVisitor, name: Name) -> Response:
    shadows_api.stop(name, visitor.caller)
    return forms.done(f"/models/{name}", did="no-shadow")


@router.post("/models/{name}/audit")
def set_audit_share(request: Request, visitor: AdminVisitor, name: Name) -> Response:
    try:
        asked = forms.as_input(AuditIn, {"share": _share(forms.text(request, "percent"))})
        thresholds_api.set_audit_share(name, visitor.caller, asked)
    except _Refused as error:
        return _refuse(request, visitor, name, error)
    return forms.done(f"/models/{name}", did="audit")


@router.post("/models/{name}/retention")
def set_retention(request: Request, visitor: AdminVisitor, name: Name) -> Response:
    try:
        asked = forms.as_input(RetentionIn, {"days": forms.text(request, "days") or None})
        products_api.set_retention(name, visitor.caller, asked)
    except _Refused as error:
        return _refuse(request, visitor, name, error)
    return forms.done(f"/models/{name}", did="retention")


@dataclass(frozen=True)
class _Histogram:
    """Scores of good, defective and undecided parts over one axis; places in [0, 1000]."""

    title: str
    low: str
    high: str
    lanes: list[tuple[str, int, str]]
    """(whose, how many, path of the bars)."""
    present: float
    proposed: float
    band: tuple[float, float] | None


def _show(
    request: Request,
    visitor: Visitor,
    name: str,
    *,
    notice: str = "",
    problem: str = "",
    status: int = HTTPStatus.OK,
    version: int | None = None,
    page_token: str = "",
    given: Mapping[str, str] | None = None,
) -> Response:
    organisation_id = visitor.caller.organisation_id
    active: ModelVersion | None = None
    judged: list[Judged] = []
    with transaction() as session:
        product = products.get_product(session, organisation_id=organisation_id, name=name)
        about = ProductOut.of(product)
        cards, older = version_cards.page(
            session, product, page_size=_VERSIONS, page_token=page_token
        )
        activations = products.list_activations(session, product)
        before = _before(activations)
        names = {key.id: key.name for key in keys.list_keys(session, organisation_id)}
        if product.active_version_id is not None:
            active = products.get_version(session, product.active_version_id)
            judged = what_if.read_judged(session, product, active, since=None)
        shadow = (
            shadows.summarise(session, organisation_id=organisation_id, name=name)
            if product.shadow_version_id
            else None
        )
        newest = cards[0].version if cards else 1  # a product has a first version
        shown = version or (active.version if active else newest)
        card = version_cards.get_card(session, product, shown)
    values: dict[str, Any] = {"sliders": None}
    if active is not None:
        present = Thresholds.model_validate(active.thresholds)
        values = _thresholds_part(judged, present, given or {})
        values |= {"etag": active.digest, "curves": _curves(judged, present)}
    return page(
        request,
        "model.html",
        status=status,
        notice=notice,
        problem=problem,
        product=about,
        cards=cards,
        older=older,
        page_token=page_token,
        card=card,
        told=metric_words.told,
        key_metrics={key: metric_words.METRICS[key] for key in metric_words.KEY},
        write=metric_words.write,
        activations=activations[:10],
        before=before,
        shadow=shadow,
        names=names,
        few=_FEW,
        **values,
    )


def _refuse(
    request: Request,
    visitor: Visitor,
    name: str,
    error: Conflict | InvalidInput | PreconditionFailed,
    *,
    given: Mapping[str, str] | None = None,
) -> Response:
    return _show(request, visitor, name, problem=str(error), status=status_of(error), given=given)


def _given(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: fields[name] for name in sliders.NAMES if fields.get(name)}


def _before(activations: list[Activation]) -> int | None:
    """The version that a rollback leads to."""
    if not activations or activations[0].previous_id is None:
        return None
    by_id = {row.id: row.model_version.version for row in activations}
    return by_id[activations[0].previous_id]


def _thresholds_part(
    judged: list[Judged], present: Thresholds, given: Mapping[str, str]
) -> dict[str, Any]:
    try:
        asked = sliders.proposed(present, given)
        thresholds.check(asked)
    except InvalidInput:
        asked, given = present, {}
    return {
        "sliders": sliders.sliders(present, given),
        "refused": "",
        "is_stale": False,
        **_what_if(judged, present, asked),
    }


def _what_if(judged: list[Judged], present: Thresholds, asked: Thresholds) -> dict[str, Any]:
    thresholds.check(asked)
    return {
        "present": what_if.ask(judged, present),
        "proposed": what_if.ask(judged, asked),
        "is_same": asked == present,
        "is_cut": len(judged) == what_if.MOST_PHOTOS,
        "asked": asked,
        "histograms": _histograms(judged, present, asked),
    }


def _histograms(judged: list[Judged], present: Thresholds, asked: Thresholds) -> list[_Histogram]:
    anomaly = sliders.sliders(present, {})["anomaly_score"]

    def place(score: float, low: float = 0.0, high: float = 1.0) -> float:
        return 1000 * min(max((score - low) / (high - low), 0.0), 0.998)

    def lanes(low: float, high: float, *, is_anomaly: bool) -> list[tuple[str, int, str]]:
        found = []
        for whose, truth in (
            ("good", Verdict.GOOD),
            ("defective", Verdict.DEFECTIVE),
            ("nobody has decided", None),
        ):
            scores = [
                photo.scores.anomaly_score if is_anomaly else photo.scores.defect_probability
                for photo in judged
                if photo.truth is truth
            ]
            counts = curves.histogram(scores, low, high, _BINS)
            found.append((whose, len(scores), drawing.bars(counts)))
        return found

    return [
        _Histogram(
            "Defect probability",
            "0 %",
            "100 %",
            lanes(0.0, 1.0, is_anomaly=False),
            place(present.defect_probability),
            place(asked.defect_probability),
            (place(asked.near_threshold_low), place(asked.near_threshold_high)),
        ),
        _Histogram(
            "Anomaly score, in standard deviations",
            f"{anomaly.low:g}",
            f"{anomaly.high:g} and more",
            lanes(anomaly.low, anomaly.high, is_anomaly=True),
            place(present.anomaly_score, anomaly.low, anomaly.high),
            place(asked.anomaly_score, anomaly.low, anomaly.high),
            None,
        ),
    ]


def _curves(judged: list[Judged], present: Thresholds) -> dict[str, Any]:
    """Of the parts that people called good or defective; `drawn` is empty where they are few."""
    good = [photo.scores for photo in judged if photo.truth is Verdict.GOOD]
    defective = [photo.scores for photo in judged if photo.truth is Verdict.DEFECTIVE]
    counts: dict[str, Any] = {"good": len(good), "defective": len(defective), "drawn": []}
    if min(len(good), len(defective)) < _FEW:
        return counts
    for who, kind, of_good, of_defective, threshold in (
        (
            "Classifier",
            "first",
            [scores.defect_probability for scores in good],
            [scores.defect_probability for scores in defective],
            present.defect_probability,
        ),
        (
            "Autoencoder",
            "second",
            [scores.anomaly_score for scores in good],
            [scores.anomaly_score for scores in defective],
            present.anomaly_score,
        ),
    ):
        found: Curves = curves.curves(of_good, of_defective)
        counts["drawn"].append(
            {
                "who": who,
                "kind": kind,
                "roc": drawing.line(found.roc),
                "auroc": found.auroc,
                "precision_recall": drawing.steps(found.precision_recall),
                "average_precision": found.average_precision,
                "at": curves.operating_point(of_good, of_defective, threshold),
            }
        )
    return counts


def _share(percent: str) -> float:
    try:
        return float(percent) / 100
    except ValueError as error:
        raise InvalidInput(f"{percent!r} is not a number.", field="percent") from error
