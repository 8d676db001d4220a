"""Shadow versions at work: judged beside the verdict, and never in its way.

Whatever goes wrong with a shadow ends here, as a failure that is counted.
"""

from collections.abc import Sequence

import structlog
from torch import Tensor

from shared.errors import DefectScopeError, NotANumber
from shared.shadows import ShadowJudgement
from worker.inspect.engines.protocol import Engine
from worker.inspect.preprocess import Photo
from worker.models import Models

log = structlog.stdlib.get_logger()


def judge_in_shadow(
    models: Models,
    photos: Sequence[Photo],
    version_ids: Sequence[str | None],
    maps: Tensor,
    engine: Engine,
) -> list[ShadowJudgement | None]:
    """What the shadow version of each photo says of it; None for photos that have none.

    maps (B, 1024, 8, 8): what `engine` said of these photos. A shadow on the same engine needs
    no pass of its own. Raises nothing.
    """
    by_version: dict[str, list[int]] = {}
    for index, version_id in enumerate(version_ids):
        if version_id is not None:
            by_version.setdefault(version_id, []).append(index)
    said: list[ShadowJudgement | None] = [None] * len(photos)
    for version_id, indices in by_version.items():
        try:
            judgements = _judge(
                models,
                version_id,
                [photos[index] for index in indices],
                maps[indices],
                engine,
            )
        except Exception as error:
            code = error.code if isinstance(error, DefectScopeError) else "inspection_error"
            judgements = [ShadowJudgement.failed(version_id, code)] * len(indices)
            log.warning("shadow_failed", version=version_id, images=len(indices), error=repr(error))
        for index, judgement in zip(indices, judgements, strict=True):
            said[index] = judgement
    return said


def _judge(
    models: Models, version_id: str, photos: Sequence[Photo], maps: Tensor, engine: Engine
) -> list[ShadowJudgement]:
    model = models.get_shadow(version_id)
    judgements = model.inspector.judge(
        photos,
        [model.product] * len(photos),
        maps if model.inspector.engine is engine else None,
    )
    return [
        ShadowJudgement.judged(version_id, judgement.scores, judgement.outcome)
        if judgement.scores.are_finite
        else ShadowJudgement.failed(version_id, NotANumber.code)
        for judgement in judgements
    ]
