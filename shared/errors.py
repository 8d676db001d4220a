"""The tree of deliberate errors, named by who must act.

Every error that we raise on purpose carries a stable `code` (what a program
branches on) and a sentence that says what to do. `api/problems.py` alone turns
them into HTTP; `worker/tasks.py` alone decides what is tried again.
"""

from datetime import timedelta


class DefectScopeError(Exception):
    """Any error that we raise on purpose."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.field = field


class Rejected(DefectScopeError):
    """The caller's fault: trying again with the same input changes nothing."""

    code = "rejected"


class Malformed(Rejected):
    """A request that cannot be read at all."""

    code = "malformed_request"


class InvalidInput(Rejected):
    """A field has a value that we cannot take; `field` names it."""

    code = "invalid_input"


class NotAnImage(Rejected):
    """The bytes are neither a JPEG nor a PNG, whatever their name says."""

    code = "not_an_image"


class UnreadableImage(Rejected):
    """A JPEG or PNG whose structure or pixel data is broken."""

    code = "unreadable_image"


class ImageOutOfBounds(Rejected):
    """A sound image that is smaller or larger than we judge."""

    code = "image_out_of_bounds"


class NotANumber(Rejected):
    """A sound image for which the models have no number. NaN is below every threshold: it would
    pass."""

    code = "not_a_number"

    def __init__(self) -> None:
        super().__init__("The models gave no number for it.")


class TooLarge(Rejected):
    """More bytes than the limit."""

    code = "too_large"


class Unauthenticated(Rejected):
    """No key, or one that is unknown, expired or revoked."""

    code = "unauthenticated"


class Forbidden(Rejected):
    """The key is good, but lacks the scope."""

    code = "missing_scope"


class NotFound(Rejected):
    """No such thing, or it belongs to somebody else: the two look the same."""

    code = "not_found"


class Conflict(Rejected):
    """The thing is not in a state in which this can be done."""

    code = "conflict"


class UploadUsed(Conflict):
    """The upload became an inspection already."""

    code = "upload_used"


class PreconditionFailed(Rejected):
    """The thing was changed since the caller looked at it."""

    code = "changed_meanwhile"


class PreconditionRequired(Rejected):
    """A change that must name what it was made from."""

    code = "if_match_required"


class DamagedBundle(Rejected):
    """A bundle whose files do not match the digests in its manifest."""

    code = "damaged_bundle"


class UnusableData(Rejected):
    """A training or evaluation folder that cannot be used as it is."""

    code = "unusable_data"


class Unavailable(DefectScopeError):
    """The world's fault: the same request may succeed later."""

    code = "unavailable"
    retry_after = timedelta(seconds=2)


class TooMany(Unavailable):
    """More than we take at this moment; `retry_after` says when to come back."""

    code = "too_many"

    def __init__(self, message: str, *, code: str, retry_after: timedelta) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"


class StorageUnavailable(Unavailable):
    code = "storage_unavailable"
