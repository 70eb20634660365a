"""Stores in S3: one client a process, and failures that pass are waited out."""

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import aiohttp
import botocore.exceptions
import s3fs
import s3fs.core
import tenacity

from kdlib.errors import KdlibError, Unreachable

log = logging.getLogger("kdlib")

PATIENCE = 30.0  # seconds within which one call may be begun again
# No connection, or a broken reply.
PASSING = (*s3fs.core.S3_RETRYABLE_ERRORS, botocore.exceptions.ConnectionError, aiohttp.ClientError)


def filesystem() -> s3fs.S3FileSystem:
    """The file system that the AWS_* environment variables describe."""
    environment = sorted((key, value) for key, value in os.environ.items() if key.startswith("AWS_"))
    return _filesystem(os.getpid(), tuple(environment))  # an async client does not survive a fork


@functools.cache
def _filesystem(pid: int, environment: tuple[tuple[str, str], ...]) -> s3fs.S3FileSystem:
    settings = {"connect_timeout": 5, "read_timeout": 15, "retries": {"total_max_attempts": 1}}
    fs = s3fs.S3FileSystem(
        skip_instance_cache=True,  # fsspec's would answer with the credentials of another environment
        use_listings_cache=False,  # others write too: a listing is asked for each time
        max_concurrency=1,  # else every read asks for the size first
        config_kwargs=settings)
    fs.retries = 1  # botocore and s3fs would multiply their attempts, each for a part of the failures: see patiently
    return fs


def patiently(what: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """call(*arguments, **options), repeated with growing random pauses while S3 fails in a way that passes.

    FileNotFoundError and FileExistsError are answers and come as they are. Raises Unreachable where S3 still fails
    after PATIENCE, and KdlibError where it refuses; both name `what`.
    """
    def warn(state: tenacity.RetryCallState) -> None:
        why = _line(state.outcome.exception() if state.outcome else None)
        log.warning("kdlib: %s: %s; trying again", what, why)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_passes), stop=tenacity.stop_before_delay(PATIENCE),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=4), reraise=True,
        before_sleep=warn)
    try:
        return retrying(call, *arguments, **options)
    except Exception as error:
        status, code = _reply(error)
        if status == 416:  # the first bytes of an empty object
            return b""
        if status == 412:  # s3fs knows it only from servers that name the condition
            raise FileExistsError(what) from error
        if isinstance(error, FileNotFoundError) and code != "NoSuchBucket":
            raise
        if _passes(error):
            raise Unreachable(f"{what}: S3 has not answered within {PATIENCE:g} s: {_line(error)}") from error
        raise KdlibError(f"{what}: S3 refuses: {_line(error)}") from error


def _passes(error: BaseException) -> bool:
    status, _ = _reply(error)
    return isinstance(error, PASSING) if status is None else status >= 500 or status in (408, 409, 429)


def _reply(error: BaseException) -> tuple[int | None, str | None]:
    """HTTP status and S3's code for the error, or None and None where no reply came."""
    reply = getattr(error.__cause__, "response", None)  # s3fs makes OSErrors of S3's own
    return (reply["ResponseMetadata"]["HTTPStatusCode"], reply["Error"].get("Code")) if reply else (None, None)


def _line(error: BaseException | None) -> str:
    return " ".join(str(error).split()) or type(error).__name__
