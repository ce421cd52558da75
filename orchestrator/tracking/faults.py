"""What an exception means that delivering to MLflow ends with: the store is away, or it refuses what it was given."""

from ssl_core.schema.urls import without_credentials

REFUSALS = {
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "ENDPOINT_NOT_FOUND",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_FOUND",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_CONFLICT",
    "RESOURCE_DOES_NOT_EXIST",
}
"""MLflow's codes for what is wrong with a request, whenever it is made."""

LONGEST = 300  # characters of somebody else's words


class Undelivered(RuntimeError):
    """Something cannot be delivered to MLflow yet: it waits, and the rest goes on."""


class StoreAway(Undelivered):
    """The MLflow store does not answer, or not as it should: everything waits."""


class Refused(RuntimeError):
    """The MLflow store understands what it was given, and does not take it."""


def is_refusal(error: Exception) -> bool:
    """Whether what a store was given is at fault, so that it will not take it later either."""
    from mlflow.exceptions import MlflowException, RestException
    from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

    if not isinstance(error, MlflowException):
        return not isinstance(error, (OSError, SQLAlchemyError))
    cause = error.__cause__
    if isinstance(cause, (OSError, SQLAlchemyError)):
        return isinstance(cause, (DataError, IntegrityError))
    if error.error_code == "INTERNAL_ERROR":  # of a server, about a request; or of a connection that failed
        return isinstance(error, RestException) or cause is not None
    return error.error_code in REFUSALS


def words_of(error: BaseException) -> str:
    """What an exception says, in a line, without the credentials that a URL in it may hold."""
    text = " ".join(without_credentials(str(error)).split())[:LONGEST]
    return text or type(error).__name__
