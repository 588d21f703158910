"""Functions behind the Lambda API: AWS's own, or those of any server that speaks it.

Invoke is called with RequestResponse, as event source mappings do, and each call is made once: a client that retries would run the function
twice for one attempt. The worker repeats what did not run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from streamcore._aws_errors import classify
from streamcore._boto import make_client
from streamcore.errors import ConfigError, FunctionUnavailableError
from streamcore.functions._names import FunctionName
from streamcore.protocols import Answer
from streamcore.sources._wall import WallClock

if TYPE_CHECKING:
    from streamcore._streamcore import Batch
    from streamcore.protocols import Clock

__all__ = ["LambdaFunction"]

_log = logging.getLogger("streamcore.function")

_TIMEOUT_MAX_MS = 900_000  # Lambda quotas, "Function timeout"
_MARGIN_MS = 30_000  # the way there and back, and the start of the function's environment, which its timeout leaves out
_CONNECT_S = 30  # the event must be sent in this time too
_ASK_S = 10
_CONNECTIONS = 64
# A peer that has vanished is noticed after a minute and a half, and routers on the way do not forget a connection that is silent while a
# long function runs.
_KEEP_ALIVE = (("TCP_KEEPIDLE", 45), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3))

_TOO_LARGE = frozenset({"RequestTooLargeException", "SerializedRequestEntityTooLargeException"})


class _Call(NamedTuple):
    """A call of Invoke: when it began, and how long its answer is awaited at least."""

    started: int
    awaited_ms: int


class LambdaFunction:
    """A `Function` that is invoked through the Lambda API ("Lambda API reference", Invoke).

    What the service answers becomes an `Answer`:

    | The service | kind | spends an attempt |
    |---|---|---|
    | 200 | "success" | |
    | 200 with `X-Amz-Function-Error` | "function_error" | yes |
    | 413: the event is too large | "too_large": the batch is cut | no; one record alone: yes |
    | 429 | "throttled" | no |
    | any other status, or none | "service_error" | no |

    Where the connection breaks or no answer comes in time, the function may run on. Then `Answer.alive_until_ms` says until when: the
    function's timeout and 30 s more from the moment at which the event was sent at the latest. The worker keeps the batch in flight until
    then, so that no record of its keys starts beside that run. How long an answer is awaited is the function's timeout and 30 s as well.

    Args:
        function: `NAME`, `NAME:QUALIFIER` or an ARN. The qualifier is a version or an alias.
        region: where the function is; by default that of the ARN, else that of the environment or the profile.
        endpoint_url: another server than AWS's own; by default what the environment or the profile says (`AWS_ENDPOINT_URL_LAMBDA`,
            `AWS_ENDPOINT_URL`).
        profile: a profile of the shared configuration files.
        timeout_ms: the function's timeout, 1 to 900,000. By default it is asked for with GetFunctionConfiguration at first contact, and
            again when a run is lost; 900,000 where that is not permitted.
        clock: tells the time; the system's by default. It must be the worker's.

    Raises:
        ConfigError: boto3 is not installed, or name, region, profile, endpoint or timeout cannot be right.

    Example:
        >>> function = LambdaFunction("billing:live", region="eu-west-1", endpoint_url="http://127.0.0.1:4566")
        >>> function.function_arn
        'arn:aws:lambda:eu-west-1:000000000000:function:billing:live'
        >>> function.close()
    """

    def __init__(
        self,
        function: str | FunctionName,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        timeout_ms: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        if timeout_ms is not None and not (type(timeout_ms) is int and 1 <= timeout_ms <= _TIMEOUT_MAX_MS):
            raise ConfigError(f"timeout_ms must be an integer from 1 to {_TIMEOUT_MAX_MS}, not {timeout_ms!r}", parameter="timeout_ms")
        name = function if isinstance(function, FunctionName) else FunctionName.read(function)
        if region is not None and name.region not in (None, region):
            raise ConfigError(f"the function's ARN says region {name.region}, and region= says {region}", parameter="region")
        self._name = name
        self._region = name.region or region
        self._endpoint_url = endpoint_url
        self._profile = profile
        self._clock: Clock = clock if clock is not None else WallClock()
        self._lock = threading.Lock()
        self._fixed_timeout_ms = timeout_ms
        self._timeout_ms = timeout_ms  # None until it was asked for
        self._asked_at: int | None = None
        self._arn: str | None = None
        self._client: Any = self._made()
        self._http: tuple[int, Any] | None = None  # connections for Invoke, and the timeout that they wait for
        names = {"FunctionName": replace(name, qualifier=None).arn() if name.account else name.name}
        self._names = {**names, "Qualifier": name.qualifier} if name.qualifier else names

    @property
    def function_arn(self) -> str:
        """The function's ARN with the qualifier as given. The account is 000000000000 until the service has told it."""
        return self._arn or self._name.arn(self._client_region())

    def describe(self) -> int:
        """Make first contact: learn the function's ARN and timeout (GetFunctionConfiguration). Returns the timeout in milliseconds.

        Without leave to ask the timeout is taken to be 900,000, with a line in the log.

        Raises:
            ConfigError: there is no such function.
            FunctionUnavailableError: the service cannot be reached or takes no call: credentials, network, a failure of its own.
        """
        with self._lock:
            self._ask()
        return self._timeout_ms or _TIMEOUT_MAX_MS

    def invoke(self, batch: Batch) -> Answer:
        """Invoke the function once with the batch's event."""
        self._learn()
        event = batch.json()
        client = self._client or self._renewed()
        call = _Call(self._clock.now_ms(), self._awaited_ms())
        try:
            said = client.invoke(**self._names, InvocationType="RequestResponse", Payload=event)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is an answer
            return self._failed(error, call)
        meta = said["ResponseMetadata"]
        try:
            body: bytes = said["Payload"].read()
        except Exception as error:  # noqa: BLE001 - the same
            # The head comes when the function has ended, so nothing runs on.
            text = f"Function call failed: the answer broke off ({type(error).__name__}: {error})"
            return self._trouble("service_error", "AnswerBrokeOff", text, meta)
        function_error = said.get("FunctionError")
        return Answer(
            "success" if function_error is None else "function_error",
            _decoded(body),
            status_code=said.get("StatusCode") or meta["HTTPStatusCode"],
            executed_version=said.get("ExecutedVersion"),
            function_error=function_error,
            request_id=_request_id(meta),
        )

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        with self._lock:
            client, self._client = self._client, None
            http, self._http = self._http, None
        if client is not None:
            client.close()
        if http is not None:
            http[1].close()

    # What the service answers.

    def _failed(self, error: Exception, call: _Call) -> Answer:
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, ReadTimeoutError  # noqa: A004, PLC0415

        if isinstance(error, ClientError):
            return self._refused(error, call)
        code = type(error).__name__
        if isinstance(error, BotoCoreError) and not isinstance(error, (ConnectionError, HTTPClientError)):
            # No credentials, or a request that could not be made: nothing was sent.
            self._forget_credentials()
            return self._trouble("service_error", code, f"the AWS credentials are missing, expired or not valid ({code}: {error})", {})
        if _was_not_sent(error):
            text = f"Function call failed: {self.function_arn} cannot be reached ({code}: {error})"
            return self._trouble("service_error", code, text, {})
        alive_until = self._lost(call, waited=isinstance(error, ReadTimeoutError))
        text = f"Function call failed: no answer from {self.function_arn} ({code}: {error})"
        return self._trouble("service_error", code, text, {}, alive_until)

    def _refused(self, error: Any, call: _Call) -> Answer:
        meta: dict[str, Any] = error.response.get("ResponseMetadata", {})
        status: int = meta.get("HTTPStatusCode", 0)
        said: dict[str, Any] = error.response.get("Error", {})
        code = str(said.get("Code") or "")
        message = str(said.get("Message") or error.response.get("message") or "")
        named = bool(code) and not code.isdecimal()  # botocore takes the status for the code where an answer has none
        request_id = _request_id(meta) or "none"
        details = f"(Service: AWSLambda; Status Code: {status}; Error Code: {code if named else 'none'}; Request ID: {request_id})"
        arn = self.function_arn
        if status == 413 or code in _TOO_LARGE:
            return self._trouble("too_large", code, f"Function call failed: the event is too large: {message} {details}", meta)
        if (kind := classify(status, code)) == "throttled":
            reason = error.response.get("Reason")
            return self._trouble("throttled", code, f"Function is throttled: {message}{f' [{reason}]' if reason else ''} {details}", meta)
        alive_until = None
        if kind == "credentials":
            self._forget_credentials()
            text = f"the AWS credentials are missing, expired or not valid: {message} {details}"
        elif status == 404:
            text = f"Function not found: {arn} {details}"
        elif status == 403:
            text = f"no permission for lambda:InvokeFunction on {arn}; the credentials in use need it: {message} {details}"
        elif status == 409:
            text = f"Function {arn} cannot be invoked now: {message} {details}"
        else:
            text = f"Function call failed: {message} {details}"
            if status in (502, 504) and not named:
                # Not the service's own word, but that of a gateway on the way which has lost it: the function may run.
                alive_until = self._lost(call, waited=False)
        return self._trouble("service_error", code or str(status), text, meta, alive_until)

    def _trouble(self, kind: Any, code: str, text: str, meta: dict[str, Any], alive_until_ms: int | None = None) -> Answer:
        """Return the answer of a call that did not run, or may run on."""
        if alive_until_ms is not None and (left := alive_until_ms - self._clock.now_ms()) > 0:
            text = f"{text}; it may run on for {left / 1000:.0f} s, in which its batch is not tried again"
        return Answer(
            kind,
            {"errorType": code, "errorMessage": text},
            status_code=meta.get("HTTPStatusCode", 0),
            executed_version=None,
            request_id=_request_id(meta),
            alive_until_ms=alive_until_ms,
            problem=text,
        )

    def _lost(self, call: _Call, *, waited: bool) -> int:
        """Return until when a run may go on of which no end is known; with `waited` the answer was awaited to the end of its time."""
        now = self._clock.now_ms()
        if self._fixed_timeout_ms is None:
            # It may have been raised since it was asked for.
            with self._lock, contextlib.suppress(ConfigError, FunctionUnavailableError):
                if self._asked_at is None or self._asked_at <= call.started:
                    self._ask()
        return now - (call.awaited_ms if waited else 0) + self._awaited_ms()

    def _awaited_ms(self) -> int:
        return (self._timeout_ms or _TIMEOUT_MAX_MS) + _MARGIN_MS

    # What the service says of the function.

    def _learn(self) -> None:
        """Ask for the timeout if it is not known and was never asked for."""
        if self._timeout_ms is not None or self._asked_at is not None:
            return
        with self._lock:
            if self._asked_at is None:
                # What is wrong now the call itself will tell.
                with contextlib.suppress(ConfigError, FunctionUnavailableError):
                    self._ask()

    def _ask(self) -> None:
        """Call GetFunctionConfiguration, with the lock held."""
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

        client = self._client or self._made()
        self._client = client
        self._asked_at = self._clock.now_ms()
        try:
            said = client.get_function_configuration(**self._names)
        except ClientError as error:
            self._not_told(error)
            return
        except BotoCoreError as error:
            message = f"{self.function_arn} cannot be reached (lambda:GetFunctionConfiguration): {type(error).__name__}: {error}"
            raise FunctionUnavailableError(message, code=type(error).__name__, action="lambda:GetFunctionConfiguration") from error
        if isinstance(said.get("Timeout"), int) and self._fixed_timeout_ms is None:
            self._timeout_ms = min(max(said["Timeout"], 1) * 1000, _TIMEOUT_MAX_MS)
        with contextlib.suppress(ConfigError):
            self._arn = replace(FunctionName.read(said.get("FunctionArn") or ""), qualifier=self._name.qualifier).arn()

    def _not_told(self, error: Any) -> None:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(error.response.get("Error", {}).get("Code") or "")
        if code == "ResourceNotFoundException":
            text = f"Function not found: {self.function_arn} (lambda:GetFunctionConfiguration: {code})"
            raise ConfigError(text, parameter="function") from error
        if classify(status, code) == "credentials":
            self._client = None
            message = f"the AWS credentials are missing, expired or not valid (lambda:GetFunctionConfiguration): {error}"
            raise FunctionUnavailableError(message, code=code, action="lambda:GetFunctionConfiguration") from error
        if status >= 500 or status == 429:
            message = f"{self.function_arn} cannot be described (lambda:GetFunctionConfiguration): {error}"
            raise FunctionUnavailableError(message, code=code, action="lambda:GetFunctionConfiguration") from error
        if self._timeout_ms is None:
            _log.warning(
                "the timeout of %s is not known, so it is taken to be %d s; with leave for lambda:GetFunctionConfiguration, or "
                "a timeout given, a lost call holds up its records no longer than it must: %s",
                self.function_arn,
                _TIMEOUT_MAX_MS // 1000,
                error,
                extra={"function": self.function_arn, "errorType": code, "errorMessage": str(error)},
            )

    # Clients.

    def _client_region(self) -> str | None:
        if self._region is None and self._client is not None:
            self._region = self._client.meta.region_name
        return self._region

    def _renewed(self) -> Any:
        with self._lock:
            self._client = self._client or self._made()
            return self._client

    def _forget_credentials(self) -> None:
        """Let files and environment be read anew by the next call: somebody may have logged in meanwhile."""
        with self._lock:
            self._client = None

    def _made(self) -> Any:
        client = make_client(
            "lambda",
            who="a function of the Lambda API",
            region=self._region,
            endpoint_url=self._endpoint_url,
            profile=self._profile,
            retries={"total_max_attempts": 1, "mode": "standard"},  # the mode "adaptive" would wait before a call
            connect_timeout=_ASK_S,
            read_timeout=_ASK_S,
        )
        self._region = client.meta.region_name
        client.meta.events.register("before-send.lambda.Invoke", self._send)
        return client

    def _send(self, request: Any, **_: object) -> Any:
        """Send an Invoke over connections that wait as long as the function may run; botocore's own wait for all calls alike."""
        awaited_ms = self._awaited_ms()
        http = self._http
        if http is None or http[0] != awaited_ms:
            with self._lock:
                http = self._http
                if http is None or http[0] != awaited_ms:
                    self._http = http = (awaited_ms, _connections(request.url, awaited_ms / 1000, self._profile))
        return http[1].send(request)


def _connections(url: str, read_timeout_s: float, profile: str | None) -> Any:
    from botocore.httpsession import URLLib3Session  # noqa: PLC0415  (the client has loaded these)
    from botocore.session import Session  # noqa: PLC0415
    from botocore.utils import get_environ_proxies  # noqa: PLC0415

    options: list[tuple[int, int, int]] = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    options += [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in _KEEP_ALIVE if hasattr(socket, name)]
    bundle = Session(profile=profile).get_config_variable("ca_bundle")
    return URLLib3Session(
        verify=bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True,
        proxies=get_environ_proxies(url),
        timeout=(_CONNECT_S, read_timeout_s),
        max_pool_connections=_CONNECTIONS,
        socket_options=options,
    )


def _request_id(meta: dict[str, Any]) -> str | None:
    found: str | None = meta.get("RequestId") or meta.get("HTTPHeaders", {}).get("x-amzn-requestid")
    return found


def _was_not_sent(error: Exception) -> bool:
    """Whether a call has failed before its event can have reached anybody."""
    import ssl  # noqa: PLC0415

    from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError  # noqa: PLC0415

    if isinstance(error, (ConnectTimeoutError, EndpointConnectionError, ProxyConnectionError)):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _decoded(body: bytes) -> object:
    """Return what the function gave: JSON, and text where a runtime gives something else."""
    if not body:
        return None
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
