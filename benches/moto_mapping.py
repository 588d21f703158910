"""What moto does with an event source mapping of a Kinesis stream, all in this process; print JSON.

Run by `peers.py` in an environment of its own that has `moto[awslambda,dynamodb,kinesis]` (Apache-2.0), which is used as it is installed:

    python -P benches/moto_mapping.py RECORDS PAYLOAD_BYTES

moto polls nothing: each PutRecord calls the function once with that record, in the thread that puts, and waits for it. The function runs
in Docker; here its `invoke` is replaced by one that answers at once, so that what is left is moto's own work. Prints seconds of CPU time:
of puts without a mapping, of puts with one, and of the deliveries alone.
"""

from __future__ import annotations

import base64
import io
import json
import sys
import time
import zipfile
from typing import TYPE_CHECKING, Any

import boto3
from moto import mock_aws
from moto.awslambda.models import LambdaFunction
from moto.awslambda.utils import get_backend

if TYPE_CHECKING:
    from collections.abc import Callable

REGION, ACCOUNT = "us-east-1", "123456789012"


class Invocations:
    """What takes the place of Docker."""

    def __init__(self) -> None:
        self.count = self.bytes = 0

    def __call__(self, body: str, *_: Any) -> bytes:
        self.count += 1
        self.bytes += len(body)
        return b"{}"


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


@mock_aws  # type: ignore[untyped-decorator] # of another environment
def main() -> None:
    count, payload = int(sys.argv[1]), bytes(int(sys.argv[2]))
    session = boto3.session.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=REGION)  # noqa: S106
    kinesis, functions, iam = (session.client(name) for name in ("kinesis", "lambda", "iam"))
    role = iam.create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("app.py", "def handler(event, context):\n    return None\n")
    function = {"FunctionName": "f", "Runtime": "python3.11", "Role": role, "Handler": "app.handler"}
    functions.create_function(**function, Code={"ZipFile": code.getvalue()})
    kinesis.create_stream(StreamName="bench", ShardCount=1)
    arn = kinesis.describe_stream(StreamName="bench")["StreamDescription"]["StreamARN"]

    def put() -> None:
        for number in range(count):
            kinesis.put_record(StreamName="bench", PartitionKey=f"key-{number % 100}", Data=payload)

    invocations = Invocations()
    LambdaFunction.invoke = invocations
    unmapped = seconds(put)
    functions.create_event_source_mapping(FunctionName="f", EventSourceArn=arn, StartingPosition="TRIM_HORIZON", BatchSize=100)
    mapped = seconds(put)
    assert invocations.count == count, "one invocation for each record, whatever the batch size"
    data, backend = base64.b64encode(payload).decode(), get_backend(ACCOUNT, REGION)

    def deliver() -> None:
        for number in range(count):
            backend.send_kinesis_message("f", arn, f"key-{number % 100}", str(number), data, "shardId-000000000000")

    alone = seconds(deliver)
    print(json.dumps({"unmapped_s": unmapped, "mapped_s": mapped, "deliveries_s": alone, "invocations": invocations.count}))


if __name__ == "__main__":
    main()
