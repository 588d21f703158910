"""The signed client of AWS's JSON APIs."""

from __future__ import annotations

import base64
import json
import random
import socket
import subprocess
import sys
import textwrap
import threading
from typing import TYPE_CHECKING, Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

import proxy as faults
from proxy import Proxy, fault_proxy
from servers import Server, unique
from streamcore import ConfigError
from streamcore._aws_errors import classify
from streamcore.sources._aws import AwsClient, AwsError, Identity, Signer, read_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEED = 7


pytestmark = pytest.mark.usefixtures("aws_environment")


@pytest.fixture
def proxy(ministack: Server) -> Iterator[Proxy]:
    with fault_proxy(ministack) as made:
        yield made


@pytest.fixture
def client(proxy: Proxy) -> Iterator[AwsClient]:
    made = AwsClient("kinesis", endpoint_url=proxy.endpoint_url)
    yield made
    made.close()


@pytest.mark.parametrize("token", [None, "a/session+token=="])
def test_a_signature_is_the_one_that_botocore_makes(token: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(SEED)
    signer = Signer("kinesis", "eu-west-1", "kinesis.eu-west-1.amazonaws.com", "/", "application/x-amz-json-1.1")
    identity = Identity("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    for day in range(1, 29):  # the key is derived anew on each
        date = f"202602{day:02d}T235959Z"
        body = json.dumps({"ShardIterator": rng.randbytes(rng.randrange(300)).hex()}).encode()
        target = rng.choice(["Kinesis_20131202.GetRecords", "Kinesis_20131202.ListShards"])
        theirs = SigV4Auth(Credentials(identity.access_key, identity.secret_key, token), "kinesis", "eu-west-1")
        headers = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target}
        request = AWSRequest("POST", "https://kinesis.eu-west-1.amazonaws.com/", headers=headers, data=body)
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda date=date: _datetime(date))
        theirs.add_auth(request)
        assert signer.sign(identity, date, target, body) == request.headers["Authorization"], f"seed {SEED}, day {day}"


def _datetime(text: str) -> Any:
    from datetime import UTC, datetime  # noqa: PLC0415

    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "ProvisionedThroughputExceededException", "throttled"),
        (400, "KMSThrottlingException", "throttled"),
        (400, "LimitExceededException", "throttled"),
        (429, "", "throttled"),
        (500, "InternalFailure", "transient"),
        (503, "HTTP 503", "transient"),
        (400, "ExpiredIteratorException", "expired_iterator"),
        (400, "ExpiredNextTokenException", "expired_token"),
        (400, "ExpiredTokenException", "credentials"),
        (403, "InvalidSignatureException", "credentials"),
        (400, "UnrecognizedClientException", "credentials"),
        (400, "AccessDeniedException", "access_denied"),
        (403, "HTTP 403", "access_denied"),
        (400, "KMSDisabledException", "kms"),
        (400, "KMSAccessDeniedException", "kms"),
        (400, "ResourceNotFoundException", "not_found"),
        (400, "ResourceInUseException", "not_active"),
        (400, "TrimmedDataAccessException", "trimmed"),
        (400, "InvalidArgumentException", "invalid"),
        (400, "SomethingNew", "other"),
    ],
)
def test_an_error_is_of_one_kind(status: int, code: str, kind: str) -> None:
    assert classify(status, code) == kind


@pytest.mark.parametrize(
    ("body", "header", "expected"),
    [
        (b'{"__type":"ExpiredIteratorException","message":"old"}', None, ("ExpiredIteratorException", "old")),
        (b'{"__type":"com.amazonaws.x#KMSNotFoundException","Message":"gone"}', None, ("KMSNotFoundException", "gone")),
        (b'{"message":"no type"}', "AccessDeniedException:http://internal/", ("AccessDeniedException", "no type")),
        (b"<html>Bad Gateway</html>", None, ("HTTP 502", "<html>Bad Gateway</html>")),
        (b"[]", None, ("HTTP 502", "")),
        (b"", None, ("HTTP 502", "")),
    ],
)
def test_code_and_text_of_an_error_are_found_where_servers_put_them(body: bytes, header: str | None, expected: tuple[str, str]) -> None:
    assert read_error(502, body, header) == expected


def test_an_answer_is_handed_on_as_the_bytes_that_came(client: AwsClient, ministack: Server) -> None:
    name = unique("bytes")
    ministack.client("kinesis").create_stream(StreamName=name, ShardCount=1)
    body = client.call("ListShards", json.dumps({"StreamName": name}).encode())
    assert isinstance(body, bytes)
    assert [shard["ShardId"] for shard in json.loads(body)["Shards"]] == ["shardId-000000000000"]


def test_a_request_carries_what_the_service_asks_for(client: AwsClient, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    client.ask("ListStreams", {})
    headers = proxy.requests[-1].headers
    assert headers["x-amz-target"] == "Kinesis_20131202.ListStreams"
    assert headers["content-type"] == "application/x-amz-json-1.1"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")
    assert "x-amz-security-token" not in headers
    monkeypatch.setenv("AWS_SESSION_TOKEN", "secret")
    other = AwsClient("kinesis", endpoint_url=proxy.endpoint_url)
    other.ask("ListStreams", {})
    other.close()
    assert proxy.requests[-1].headers["x-amz-security-token"] == "secret"


@pytest.mark.parametrize("fault", [faults.error("InternalFailure", 500), faults.refuse(), faults.cut()])
def test_a_service_that_fails_is_a_transient_error(client: AwsClient, proxy: Proxy, fault: faults.Fault) -> None:
    proxy.fault("ListStreams", fault)
    with pytest.raises(AwsError, match=r"^kinesis:ListStreams: ") as caught:
        client.call("ListStreams", b"{}")
    assert caught.value.kind == "transient"
    assert "StreamNames" in client.ask("ListStreams", {})  # the next call has a connection of its own


def test_a_service_that_hangs_is_a_transient_error(proxy: Proxy) -> None:
    client = AwsClient("kinesis", endpoint_url=proxy.endpoint_url, read_timeout_s=0.2)
    proxy.fault("ListStreams", faults.hang())
    with pytest.raises(AwsError, match=r"^kinesis:ListStreams: ReadTimeoutError: ") as caught:
        client.call("ListStreams", b"{}")
    assert caught.value.kind == "transient"
    assert "StreamNames" in client.ask("ListStreams", {}, tries=20)  # a busy machine may take longer than that to answer
    client.close()


def test_a_call_is_tried_again_only_where_that_may_help(client: AwsClient, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("streamcore.sources._aws.time.sleep", pauses.append)
    proxy.fault("ListStreams", faults.error("LimitExceededException"), times=2)
    client.call("ListStreams", b"{}", tries=3)
    assert pauses == [0.1, 0.2]
    proxy.fault("ListStreams", faults.error("AccessDeniedException"))
    with pytest.raises(AwsError) as caught:
        client.call("ListStreams", b"{}", tries=3)
    assert (caught.value.kind, caught.value.action, caught.value.status) == ("access_denied", "kinesis:ListStreams", 400)
    proxy.fault("ListStreams", faults.error("ThrottlingException"), times=3)
    with pytest.raises(AwsError):
        client.call("ListStreams", b"{}", tries=3)
    assert len(pauses) == 4


def test_credentials_that_were_refused_are_looked_up_anew(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    shared = tmp_path / "credentials"
    shared.write_text("[default]\naws_access_key_id = old\naws_secret_access_key = old\n")
    client = AwsClient("kinesis", endpoint_url=proxy.endpoint_url)
    proxy.fault("ListStreams", faults.error("ExpiredTokenException"))
    with pytest.raises(AwsError) as caught:
        client.call("ListStreams", b"{}")
    assert caught.value.kind == "credentials"
    shared.write_text("[default]\naws_access_key_id = new\naws_secret_access_key = new\n")
    client.call("ListStreams", b"{}")
    client.close()
    assert [request.headers["authorization"].split("Credential=")[1].split("/")[0] for request in proxy.requests] == ["old", "new"]


def test_credentials_that_expire_are_refreshed(proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A credential process is asked again once its answer is about to expire."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    script = tmp_path / "credentials.py"
    script.write_text(
        textwrap.dedent(f"""
        import datetime, json, pathlib
        count = pathlib.Path({str(tmp_path / "count")!r})
        n = int(count.read_text()) + 1 if count.exists() else 1
        count.write_text(str(n))
        expires = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(minutes=5 if n == 1 else 600)
        print(json.dumps({{"Version": 1, "AccessKeyId": f"key{{n}}", "SecretAccessKey": "s", "Expiration": expires.isoformat()}}))
        """)
    )
    (tmp_path / "config").write_text(f"[profile rolling]\ncredential_process = {sys.executable} {script}\n")
    client = AwsClient("kinesis", endpoint_url=proxy.endpoint_url, profile="rolling")
    client.call("ListStreams", b"{}")
    client.call("ListStreams", b"{}")
    client.close()
    used = [request.headers["authorization"].split("Credential=")[1].split("/")[0] for request in proxy.requests]
    assert used[-1] == "key2"


def test_without_credentials_the_error_says_so(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    client = AwsClient("kinesis", endpoint_url=proxy.endpoint_url)
    with pytest.raises(AwsError, match="NoCredentials") as caught:
        client.call("ListStreams", b"{}")
    assert caught.value.kind == "credentials"
    assert not proxy.requests


def test_a_proxy_of_the_environment_is_used(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy.endpoint_url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    client = AwsClient("kinesis", endpoint_url="http://kinesis.example:1234")
    assert "StreamNames" in client.ask("ListStreams", {})
    client.close()
    assert proxy.count("ListStreams") == 1


def test_the_proxy_is_told_who_asks(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name and password of a proxy's URL, in which characters may be escaped (RFC 3986)."""
    monkeypatch.setenv("http_proxy", proxy.endpoint_url.replace("//", "//some%40one:pass%3Aword@"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    client = AwsClient("kinesis", endpoint_url="http://kinesis.example:1234")
    assert "StreamNames" in client.ask("ListStreams", {})
    client.close()
    expected = "Basic " + base64.b64encode(b"some@one:pass:word").decode()
    assert [request.headers["proxy-authorization"] for request in proxy.requests] == [expected]


def test_the_proxy_of_an_encrypted_call_is_told_who_asks_and_the_service_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call by HTTPS goes through a tunnel: the name belongs to the request that opens it."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            connection, _ = listening.accept()
            with connection:
                heads.append(connection.recv(65_536))
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://someone:password@127.0.0.1:{listening.getsockname()[1]}")
        client = AwsClient("kinesis", region="eu-west-1")
        with pytest.raises(AwsError, match="407") as caught:
            client.ask("ListStreams", {})
        thread.join()
        client.close()
    (head,) = heads
    assert head.startswith(b"CONNECT kinesis.eu-west-1.amazonaws.com:443 ")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"someone:password") in head
    assert caught.value.kind == "transient"
    assert "password" not in str(caught.value)


def test_the_endpoint_is_found_as_every_aws_tool_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(
        "[profile local]\nregion = eu-central-1\nservices = here\n[services here]\nkinesis =\n  endpoint_url = http://127.0.0.1:4\n"
    )
    assert AwsClient("kinesis", profile="local").endpoint_url == "http://127.0.0.1:4"
    assert AwsClient("kinesis", profile="local").region == "eu-central-1"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:3")
    assert AwsClient("kinesis").endpoint_url == "http://127.0.0.1:3"
    monkeypatch.setenv("AWS_ENDPOINT_URL_KINESIS", "http://127.0.0.1:2")
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", "http://127.0.0.1:5")
    assert AwsClient("kinesis").endpoint_url == "http://127.0.0.1:2"
    assert AwsClient("dynamodbstreams").endpoint_url == "http://127.0.0.1:5"
    assert AwsClient("kinesis", endpoint_url="http://127.0.0.1:1").endpoint_url == "http://127.0.0.1:1"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert AwsClient("kinesis", region="us-east-1").endpoint_url is None


@pytest.mark.parametrize(
    ("service", "region", "context", "url"),
    [
        ("kinesis", "eu-west-1", {}, "https://kinesis.eu-west-1.amazonaws.com"),
        ("kinesis", "cn-north-1", {}, "https://kinesis.cn-north-1.amazonaws.com.cn"),
        (
            "kinesis",
            "us-east-1",
            {"StreamARN": "arn:aws:kinesis:us-east-1:123456789012:stream/a", "OperationType": "data"},
            "https://123456789012.data-kinesis.us-east-1.amazonaws.com",
        ),
        ("dynamodbstreams", "us-east-1", {}, "https://streams.dynamodb.us-east-1.amazonaws.com"),
    ],
)
def test_aws_s_own_endpoints_follow_its_rules(service: str, region: str, context: dict[str, str], url: str) -> None:
    client = AwsClient(service, region=region)
    assert client._url(context) == url


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no region"),
        ({"profile": "nobody"}, "nobody"),
        ({"endpoint_url": "localhost:4566"}, "an endpoint is a URL like"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AwsClient("kinesis", **options)


@pytest.mark.parametrize(("module", "package"), [("botocore", "boto3"), ("httptools", "httptools")])
def test_without_the_extra_the_error_says_what_to_install(module: str, package: str) -> None:
    code = f"""
        import sys
        sys.modules["{module}"] = None
        from streamcore.errors import ConfigError
        from streamcore.sources.kinesis import KinesisSource
        try:
            KinesisSource("orders", region="us-east-1")
        except ConfigError as error:
            print(error)
    """
    said = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert said.stdout == f"reading a stream of AWS needs {package}, which is not installed: pip install 'streamcore-esm[aws]'\n"


def test_importing_the_source_imports_none_of_the_extra() -> None:
    names = ("botocore", "boto3", "httptools", "urllib3")
    code = f"import sys, streamcore.sources.kinesis; print([name for name in {names} if name in sys.modules])"
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
