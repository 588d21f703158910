"""What the error codes of AWS mean, whichever service answers with them."""

from __future__ import annotations

from typing import Literal

__all__ = ["ErrorKind", "classify"]

ErrorKind = Literal[
    "throttled",  # too many calls or bytes: call again after a pause
    "transient",  # the service or the way to it failed: the same call may succeed
    "expired_iterator",
    "expired_token",
    "credentials",  # none, expired or not valid
    "access_denied",
    "kms",  # the key of an encrypted stream is disabled, gone or not permitted
    "not_found",
    "not_active",  # the stream is being made, changed or deleted
    "trimmed",  # the records are older than what the stream keeps
    "invalid",  # the service does not take the parameters
    "other",
]

_KINDS: dict[str, ErrorKind] = {
    "ProvisionedThroughputExceededException": "throttled",
    "LimitExceededException": "throttled",
    "Throttling": "throttled",
    "ThrottlingException": "throttled",
    "ThrottledException": "throttled",
    "RequestThrottled": "throttled",
    "RequestThrottledException": "throttled",
    "RequestLimitExceeded": "throttled",
    "TooManyRequestsException": "throttled",
    "KMSThrottlingException": "throttled",
    "SlowDown": "throttled",
    "InternalFailure": "transient",
    "InternalFailureException": "transient",
    "InternalServerError": "transient",
    "RequestTimeout": "transient",
    "RequestTimeoutException": "transient",
    "ServiceUnavailable": "transient",
    "ServiceUnavailableException": "transient",
    "ExpiredIteratorException": "expired_iterator",
    "ExpiredNextTokenException": "expired_token",
    "ExpiredToken": "credentials",
    "ExpiredTokenException": "credentials",
    "IncompleteSignature": "credentials",
    "IncompleteSignatureException": "credentials",
    "InvalidAccessKeyId": "credentials",
    "InvalidClientTokenId": "credentials",
    "InvalidSignatureException": "credentials",
    "MissingAuthenticationToken": "credentials",
    "MissingAuthenticationTokenException": "credentials",
    "RequestExpired": "credentials",
    "RequestTimeTooSkewed": "credentials",
    "SignatureDoesNotMatch": "credentials",
    "UnrecognizedClientException": "credentials",
    "AccessDenied": "access_denied",
    "AccessDeniedException": "access_denied",
    "OptInRequired": "access_denied",
    "KMSAccessDeniedException": "kms",
    "KMSDisabledException": "kms",
    "KMSInvalidStateException": "kms",
    "KMSNotFoundException": "kms",
    "KMSOptInRequired": "kms",
    "ResourceNotFoundException": "not_found",
    "ResourceInUseException": "not_active",
    "TrimmedDataAccessException": "trimmed",
    "InvalidArgumentException": "invalid",
    "SerializationException": "invalid",
    "ValidationException": "invalid",
}


def classify(status: int, code: str) -> ErrorKind:
    """Return what kind of error an answer is.

    >>> classify(400, "KMSThrottlingException"), classify(502, ""), classify(400, "Teapot")
    ('throttled', 'transient', 'other')
    """
    kind = _KINDS.get(code)
    if kind is not None:
        return kind
    if status == 429:
        return "throttled"
    if status >= 500:
        return "transient"
    return "access_denied" if status == 403 else "other"
