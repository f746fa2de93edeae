"""What goes wrong with a bucket: for a while, or for good; and in which words it is told."""

import asyncio
import socket

from aiohttp import ClientPayloadError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
)
from botocore.parsers import ResponseParserError

from noisystudent_core.errors import AccessError, UnavailableError
from noisystudent_core.storage.retries import ATTEMPTS

FIRST_CONTACT = 3  # attempts to reach an endpoint that never answered: its address may be wrong

PASSING_STATUSES = {408, 429, 500, 502, 503, 504, 509}
PASSING_CODES = {
    "BadDigest",
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",  # another writer is on its way
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "XAmzContentSHA256Mismatch",
}
UNREACHED = (EndpointConnectionError, ConnectTimeoutError, ProxyConnectionError)
PASSING = (
    *UNREACHED,
    HTTPClientError,  # closed connections, timeouts of reading
    ClientPayloadError,  # a body that was cut off
    IncompleteReadError,
    FlexibleChecksumError,
    ResponseParserError,
    ConnectionError,
    asyncio.TimeoutError,
)
NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)
WRONG_CREDENTIALS = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
WRONG_REGION = {"301", "307", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
OF_FILES = {"404", "InvalidRange", "NoSuchKey", "NoSuchUpload", "PreconditionFailed"}  # s3fs knows what they mean


def attempts_for(error: Exception, *, has_answered: bool) -> int:
    """How often a request that ended like this is worth sending; 1 for what will not pass."""
    cause = _cause(error)
    if isinstance(cause, ClientError):
        status = cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return ATTEMPTS if status in PASSING_STATUSES or code_of(error) in PASSING_CODES else 1
    if not isinstance(cause, PASSING) or _is_unknown_host(cause):
        return 1
    return FIRST_CONTACT if isinstance(cause, UNREACHED) and not has_answered else ATTEMPTS


def code_of(error: Exception) -> str:
    """The S3 protocol's name of an error, or the HTTP status where the answer had no room for it."""
    cause = _cause(error)
    return cause.response.get("Error", {}).get("Code", "") if isinstance(cause, ClientError) else ""


def plain(error: Exception, address: str, attempts: int) -> Exception:
    """The error to raise for a request about `address` that failed so many times, the last time like this."""
    cause, code = _cause(error), code_of(error)
    if attempts_for(error, has_answered=True) > 1:
        remedy = "correct AWS_ENDPOINT_URL, or try again later" if isinstance(cause, UNREACHED) else "try again later"
        return UnavailableError(f"{address}: {attempts} attempts failed, the last one: {_words(cause)}; {remedy}")
    if isinstance(cause, ClientError):
        return error if code in OF_FILES else AccessError(f"{address}: {_remark(code, _words(cause))}")
    if isinstance(cause, NO_CREDENTIALS):
        return AccessError(
            f"{address}: no credentials ({_words(cause)}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE"
        )
    if isinstance(cause, EndpointConnectionError):
        return AccessError(
            f"{address}: unknown host ({_words(cause)}); correct AWS_ENDPOINT_URL, or endpoint_url in the profile"
        )
    if isinstance(cause, BotoCoreError | ValueError):
        return AccessError(f"{address}: cannot be asked for ({_words(cause)}); check address and settings of AWS")
    return error


def _remark(code: str, words: str) -> str:
    """What an answer of the bucket means, and what to do."""
    if code == "NoSuchBucket":
        return f"no such bucket ({words}); create it, or correct the address"
    if code in WRONG_CREDENTIALS:
        return f"credentials refused ({words}); renew them, or choose others by environment or AWS_PROFILE"
    if code in WRONG_REGION:
        return f"the bucket is in another region ({words}); set AWS_DEFAULT_REGION"
    if code == "NotImplemented":
        return f"the server lacks what is asked ({words}); it must know conditional puts (If-None-Match)"
    return f"refused ({words}); check credentials and their rights on the bucket"


def _cause(error: Exception) -> BaseException:
    """Of s3fs's translation, the answer that was translated."""
    return error.__cause__ if isinstance(error.__cause__, ClientError) else error


def _is_unknown_host(error: BaseException) -> bool:
    """Whether a name server said so; one that does not answer may do so later."""
    reason = getattr(error, "kwargs", {}).get("error")
    known = getattr(reason, "os_error", reason)
    return isinstance(known, socket.gaierror) and known.errno != socket.EAI_AGAIN


def _words(error: BaseException) -> str:
    """An error in one line, a server's answer by its code and message."""
    if isinstance(error, ClientError):
        found = error.response.get("Error", {})
        return f"{found.get('Code', 'no code')}: {found.get('Message', 'no message')}"
    return " ".join(str(error).split()) or type(error).__name__
