"""Signed calls of AWS's JSON APIs, at a low price for each.

botocore says who calls (credentials), where (region and endpoint) and with which certificates, as for every AWS tool; calls are then
signed here and sent over a pool of connections that stay open, and an answer's body is handed on as the bytes that came. A call is tried
once unless it asks for more: who calls knows what else there is to do meanwhile.

botocore is imported when the first client is made.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streamcore._aws_errors import ErrorKind, classify
from streamcore._boto import configured_endpoint
from streamcore._distribution import DISTRIBUTION, version
from streamcore.errors import ConfigError, SourceUnavailableError, StreamcoreError
from streamcore.sources._http1 import quick

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from streamcore.sources._http1 import Answer

__all__ = ["AwsClient", "AwsError", "Identity", "SignedRequest", "Signer"]

_log = logging.getLogger("streamcore.sources")

_AGAIN: frozenset[ErrorKind] = frozenset({"throttled", "transient"})
_PAUSE_S, _PAUSE_MAX_S = 0.1, 2.0


class AwsError(StreamcoreError):
    """A call of an AWS API failed.

    Attributes:
        kind: what the caller can do about it.
        code: the service's error code, or the name of what broke on the way to it.
        action: the IAM action of the call, as `kinesis:GetRecords`.
        status: the HTTP status; 0 where there was no answer.
        text: what the service said.
    """

    def __init__(self, kind: ErrorKind, code: str, text: str, *, action: str, status: int = 0) -> None:
        super().__init__(f"{action}: {code}: {text}" if text else f"{action}: {code}")
        self.kind = kind
        self.code = code
        self.text = text
        self.action = action
        self.status = status

    def unavailable(self, stream: str) -> SourceUnavailableError:
        """Return what this means for a mapping whose stream is `stream`: it cannot be read now, why, and what would help."""
        if self.kind == "access_denied":
            what = f"no permission for {self.action} on {stream}; the credentials in use need it"
        elif self.kind == "credentials":
            what = f"the AWS credentials are missing, expired or not valid ({self.action} on {stream})"
        elif self.kind == "kms":
            what = f"the KMS key of {stream} cannot be used ({self.action}); reading needs kms:Decrypt on an enabled key"
        elif self.kind == "not_found":
            what = f"stream not found: {stream} ({self.action})"
        elif self.kind == "not_active":
            what = f"stream {stream} is not active ({self.action})"
        elif self.kind == "transient" and not self.status:
            what = f"{stream} cannot be reached ({self.action})"
        else:
            what = f"{stream} cannot be read ({self.action})"
        return SourceUnavailableError(f"{what}: {self.code}: {self.text}", code=self.code, action=self.action)


def read_error(status: int, body: bytes, header: str | None) -> tuple[str, str]:
    """Return code and text of an error answer: `__type` and `message` of its JSON, or the header `x-amzn-ErrorType`."""
    code = text = ""
    try:
        said = json.loads(body)
    except ValueError:
        text = body[:200].decode(errors="replace").strip()
    else:
        if isinstance(said, dict):
            code = str(said.get("__type") or said.get("code") or "")
            text = str(said.get("message") or said.get("Message") or "")
    code = code or header or ""
    # "com.amazonaws.kinesis#ExpiredIteratorException" in the body, "ExpiredIteratorException:http://..." in the header.
    return code.rsplit("#", 1)[-1].split(":", 1)[0] or f"HTTP {status}", text


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls."""

    access_key: str
    secret_key: str
    token: str | None = None


class Signer:
    """Signs `POST` requests with Signature Version 4 (IAM user guide, "AWS Signature Version 4 for API requests").

    The key of a day is derived once and all that is the same in every request is prepared once, which makes a signature about ten times
    cheaper than botocore's. Not to be shared between threads while the day or the identity changes; a race only derives the key twice.
    """

    def __init__(self, service: str, region: str, host: str, path: str, content_type: str) -> None:
        self._scope = f"{region}/{service}/aws4_request"
        self._parts = (region, service, "aws4_request")
        self._head = f"POST\n{path}\n\ncontent-type:{content_type}\nhost:{host}\nx-amz-date:"
        self._key: tuple[Identity, str, Any] | None = None

    def sign(self, identity: Identity, amz_date: str, target: str, body: bytes) -> str:
        """Return the `Authorization` header of a request sent at `amz_date` ("20260130T235959Z")."""
        date = amz_date[:8]
        cached = self._key
        if cached is None or cached[0] is not identity or cached[1] != date:
            key = f"AWS4{identity.secret_key}".encode()
            for part in (date, *self._parts):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = cached = (identity, date, hmac.new(key, digestmod="sha256"))
        if identity.token is None:
            token, signed = "", "content-type;host;x-amz-date;x-amz-target"
        else:
            token, signed = f"x-amz-security-token:{identity.token}\n", "content-type;host;x-amz-date;x-amz-security-token;x-amz-target"
        request = f"{self._head}{amz_date}\n{token}x-amz-target:{target}\n\n{signed}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{date}/{self._scope}"
        mac = cached[2].copy()
        mac.update(f"AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}".encode())
        return f"AWS4-HMAC-SHA256 Credential={identity.access_key}/{scope}, SignedHeaders={signed}, Signature={mac.hexdigest()}"


@dataclass(frozen=True, slots=True)
class _Service:
    target: str
    signing_name: str
    json_version: str
    iam_prefix: str


_SERVICES = {
    "kinesis": _Service("Kinesis_20131202", "kinesis", "1.1", "kinesis"),
    "dynamodb": _Service("DynamoDB_20120810", "dynamodb", "1.0", "dynamodb"),
    "dynamodbstreams": _Service("DynamoDBStreams_20120810", "dynamodb", "1.0", "dynamodb"),
}


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request for whoever sends it himself.

    Attributes:
        url: where it goes.
        headers: the signature is among them; `Host` must be sent as it is here.
        proxy: the proxy of the environment for this URL; None where there is none.
    """

    url: str
    headers: dict[str, str]
    proxy: str | None


class _Way:
    """The way to one endpoint: its connections, its signer and the headers that are the same in every request."""

    def __init__(self, client: AwsClient, url: str) -> None:
        import urllib3  # noqa: PLC0415  (comes with botocore, which only who reads from AWS has)
        from botocore.httpsession import ProxyConfiguration, get_cert_path  # noqa: PLC0415
        from botocore.utils import get_environ_proxies  # noqa: PLC0415

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"an endpoint is a URL like http://127.0.0.1:4566, not {url!r}", parameter="endpoint_url")
        options: dict[str, Any] = {
            "timeout": urllib3.Timeout(connect=client.connect_timeout_s, read=client.read_timeout_s),
            "maxsize": client.connections,
            "retries": False,
        }
        if parts.scheme == "https":
            options["ca_certs"] = client.ca_bundle or get_cert_path(True)  # noqa: FBT003  (positional only in botocore)
        proxies = ProxyConfiguration(get_environ_proxies(url))
        self.url = url
        self.proxy: str | None = proxies.proxy_url_for(url)
        if self.proxy:
            options |= {"proxy_url": self.proxy, "proxy_headers": proxies.proxy_headers_for(self.proxy)}
        manager = urllib3.ProxyManager(**options) if self.proxy else urllib3.PoolManager(**options)
        self._pool: Any = manager.connection_from_url(url)
        self._pool.ConnectionCls = quick(self._pool.ConnectionCls)
        self.closes = manager.clear
        self._proxied = url.rstrip("/") if self.proxy and parts.scheme == "http" else ""
        self._path = parts.path or "/"
        default = {"http": 80, "https": 443}[parts.scheme]
        host = parts.hostname if parts.port in (None, default) else f"{parts.hostname}:{parts.port}"
        service = client.service_facts
        content_type = f"application/x-amz-json-{service.json_version}"
        self.signer = Signer(service.signing_name, client.region, host, self._path, content_type)
        self.headers = {
            "Host": host,
            "Content-Type": content_type,
            "User-Agent": f"{DISTRIBUTION}/{version()}",
            "Accept-Encoding": "identity",
        }

    def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        answer: Answer = self._pool.urlopen(
            "POST", f"{self._proxied}{self._path}", body=body, headers=headers, redirect=False, retries=False, assert_same_host=False
        )
        return answer


class AwsClient:
    """Calls one service in one region. May be used from any thread.

    Args:
        service: "kinesis", "dynamodbstreams" or "dynamodb".
        region: the region; by default that of the environment or the profile.
        endpoint_url: where the service is; by default what the environment or the profile says (`AWS_ENDPOINT_URL_KINESIS`,
            `AWS_ENDPOINT_URL`, `endpoint_url`), else AWS's own endpoint of the region.
        profile: a profile of the shared configuration files.
        context: what else the rules for AWS's own endpoints ask for, as `StreamARN`.
        connect_timeout_s: how long to wait for a connection.
        read_timeout_s: how long a connection may be silent while an answer is awaited or comes in.
        connections: most connections kept open.

    Raises:
        ConfigError: boto3 is not installed, or region, profile or endpoint are missing or unknown.
    """

    def __init__(
        self,
        service: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        profile: str | None = None,
        context: Mapping[str, str] | None = None,
        connect_timeout_s: float = 5,
        read_timeout_s: float = 10,
        connections: int = 64,
    ) -> None:
        self.service = service
        self.service_facts = _SERVICES[service]
        self.connect_timeout_s = connect_timeout_s
        self.read_timeout_s = read_timeout_s
        self.connections = connections
        self._profile = profile
        self._context = dict(context or {})
        self._lock = threading.Lock()
        self._credentials: Any = None
        self._identity: tuple[tuple[str, str, str | None], Identity] | None = None
        self._stamp: tuple[int, str] = (0, "")
        self._date: str | None = None  # of the latest answer
        self._ways: dict[str, _Way] = {}
        session = self._session()
        self.ca_bundle: str | None = session.get_config_variable("ca_bundle")
        self.endpoint_url: str | None = endpoint_url or configured_endpoint(session, service)
        found = region or session.get_config_variable("region") or ("us-east-1" if self.endpoint_url else None)
        if found is None:
            message = "no region: give one with --region or region=, in AWS_REGION, AWS_DEFAULT_REGION or in the profile"
            raise ConfigError(message, parameter="region")
        self.region: str = found
        self._rules = self.endpoint_url or _endpoint_rules(session, service, found)
        if self.endpoint_url:
            self._way({})  # a URL that cannot be used is told of now

    def call(self, operation: str, body: bytes, *, tries: int = 1, context: Mapping[str, str] | None = None) -> bytes:
        """Call an operation with JSON parameters and return the answer's body as it came.

        Args:
            operation: its name, as "GetRecords".
            body: the parameters.
            tries: how often to try where the call is throttled or the service fails, with pauses that double from 0.1 s to 2 s.
            context: what the rules for AWS's own endpoints ask for with this operation, as `OperationType`.

        Raises:
            AwsError: the call failed.
        """
        failures = 0
        while True:
            try:
                return self._call(operation, body, context or {})
            except AwsError as error:
                failures += 1
                if failures >= tries or error.kind not in _AGAIN:
                    raise
                pause = min(_PAUSE_S * 2 ** (failures - 1), _PAUSE_MAX_S)
                fields = {"errorType": error.code, "errorMessage": error.text, "failures": failures, "retryInMs": round(pause * 1000)}
                _log.info("%s; next try in %.1f s", error, pause, extra=fields)
                time.sleep(pause)

    def ask(self, operation: str, parameters: Mapping[str, object], *, tries: int = 1, context: Mapping[str, str] | None = None) -> Any:
        """Call an operation and return its decoded answer; see `call`."""
        answer = self.call(operation, json.dumps(parameters).encode(), tries=tries, context=context)
        try:
            return json.loads(answer)
        except ValueError as error:
            raise AwsError("transient", "MalformedAnswer", str(error), action=self.action(operation)) from None

    def date_ms(self) -> int | None:
        """Return the second at which the latest answer was sent, by the service's clock; None where the answer did not say."""
        try:
            return round(parsedate_to_datetime(self._date or "").timestamp()) * 1000
        except ValueError:
            return None

    def sign(
        self, operation: str, parameters: Mapping[str, object], *, context: Mapping[str, str] | None = None
    ) -> tuple[SignedRequest, bytes]:
        """Return a signed request and its body, to be sent in another way than `call` does.

        Raises:
            AwsError: there are no credentials.
        """
        body = json.dumps(parameters).encode()
        way = self._way(context or {})
        headers = self._headers(way, operation, body)
        return SignedRequest(way.url, headers, way.proxy), body

    def action(self, operation: str) -> str:
        """Return the IAM action of an operation, as `kinesis:GetRecords`."""
        return f"{self.service_facts.iam_prefix}:{operation}"

    def close(self) -> None:
        """Close the connections. Safe to call twice."""
        with self._lock:
            ways, self._ways = self._ways, {}
        for way in ways.values():
            way.closes()

    def _call(self, operation: str, body: bytes, context: Mapping[str, str]) -> bytes:
        from urllib3.exceptions import HTTPError  # noqa: PLC0415  (as above; the name is found at once after the first time)

        way = self._way(context)
        headers = self._headers(way, operation, body)
        try:
            answer = way.post(body, headers)
        except (HTTPError, OSError) as error:
            raise AwsError("transient", type(error).__name__, str(error), action=self.action(operation)) from error
        self._date = answer.headers.get("date")
        if answer.status != 200:
            raise self.error(operation, answer.status, answer.data, answer.headers.get("x-amzn-errortype"))
        return answer.data

    def _headers(self, way: _Way, operation: str, body: bytes) -> dict[str, str]:
        """Return the headers of a request, signed."""
        identity = self._who(operation)
        target = f"{self.service_facts.target}.{operation}"
        now = int(time.time())
        stamp = self._stamp
        if stamp[0] != now:
            stamp = self._stamp = (now, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now)))
        headers = {
            **way.headers,
            "X-Amz-Date": stamp[1],
            "X-Amz-Target": target,
            "Authorization": way.signer.sign(identity, stamp[1], target, body),
        }
        if identity.token is not None:
            headers["X-Amz-Security-Token"] = identity.token
        return headers

    def error(self, operation: str, status: int, body: bytes, header: str | None) -> AwsError:
        """Return what an error answer means; `header` is its `x-amzn-ErrorType`."""
        code, text = read_error(status, body, header)
        kind = classify(status, code)
        if kind == "credentials":
            # Files and environment are read anew by the next call: somebody may have logged in meanwhile.
            with self._lock:
                self._credentials = self._identity = None
        return AwsError(kind, code, text, action=self.action(operation), status=status)

    def _url(self, context: Mapping[str, str]) -> str:
        rules = self._rules
        return rules if isinstance(rules, str) else rules({**self._context, **context})

    def _way(self, context: Mapping[str, str]) -> _Way:
        url = self._url(context)
        way = self._ways.get(url)
        if way is None:
            with self._lock:
                way = self._ways.get(url) or _Way(self, url)
                self._ways[url] = way
        return way

    def _session(self) -> Any:
        try:
            import httptools  # noqa: F401, PLC0415  (only who reads from AWS has it; here the error can say what to do)
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415
            from botocore.session import Session  # noqa: PLC0415
        except ModuleNotFoundError as error:
            missing = "httptools" if error.name == "httptools" else "boto3"
            message = f"reading a stream of AWS needs {missing}, which is not installed: pip install '{DISTRIBUTION}[aws]'"
            raise ConfigError(message) from error
        session = Session(profile=self._profile)
        try:
            session.get_scoped_config()
        except BotoCoreError as error:
            raise ConfigError(str(error), parameter="profile") from None
        return session

    def _who(self, operation: str) -> Identity:
        """Return the credentials, refreshed where they are about to expire."""
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        credentials = self._credentials
        try:
            if credentials is None:
                with self._lock:
                    credentials = self._credentials = self._credentials or self._session().get_credentials()
            if credentials is None:
                text = "none found in the environment, the shared configuration files, or from the host's own role"
                raise AwsError("credentials", "NoCredentials", text, action=self.action(operation))
            frozen = credentials.get_frozen_credentials()
        except (BotoCoreError, ConfigError, RuntimeError) as error:  # the last where new ones have expired already
            self._credentials = None
            raise AwsError("credentials", type(error).__name__, str(error), action=self.action(operation)) from error
        facts = (frozen.access_key, frozen.secret_key, frozen.token)
        cached = self._identity
        if cached is None or cached[0] != facts:
            self._identity = cached = (facts, Identity(*facts))
        return cached[1]


def _endpoint_rules(session: Any, service: str, region: str) -> Callable[[dict[str, str]], str]:
    """Return a function from a context to AWS's own endpoint, which follows the service's rule set in botocore."""
    from botocore.endpoint_provider import EndpointProvider  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    loader = session.get_component("data_loader")
    provider = EndpointProvider(loader.load_service_model(service, "endpoint-rule-set-1"), loader.load_data("partitions"))
    fixed = {
        "Region": region,
        "UseFIPS": bool(session.get_config_variable("use_fips_endpoint")),
        "UseDualStack": bool(session.get_config_variable("use_dualstack_endpoint")),
    }
    known: dict[tuple[tuple[str, str], ...], str] = {}

    def resolve(context: dict[str, str]) -> str:
        key = tuple(sorted(context.items()))
        url = known.get(key)
        if url is None:
            try:
                url = str(provider.resolve_endpoint(**fixed, **context).url)
            except BotoCoreError as error:
                raise ConfigError(f"no endpoint of {service} in region {region!r}: {error}", parameter="region") from None
            known[key] = url
        return url

    return resolve
