"""Streams of AWS as the command line names them: how they are opened, what reading them needs and what it costs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from streamcore._partitions import partition_of

if TYPE_CHECKING:
    from streamcore.protocols import Source

__all__ = ["StreamOption"]

_ARN = re.compile(r"arn:(?P<partition>[^:]+):(?P<service>kinesis|dynamodb):(?P<region>[^:]*):(?P<account>[^:]*):(?P<resource>.+)")
_SHORT = re.compile(r"(?P<service>kinesis|dynamodb):(?P<name>.*)")
_ACTIONS = {
    "kinesis": ("DescribeStreamSummary", "ListShards", "GetShardIterator", "GetRecords"),
    "dynamodb": ("DescribeStream", "GetShardIterator", "GetRecords"),
}
# With enhanced fan-out: of the stream, and of the consumer.
_FAN_OUT_ACTIONS: tuple[tuple[str, ...], ...] = (("DescribeStreamSummary", "ListShards"), ("DescribeStreamConsumer", "SubscribeToShard"))
_FAN_OUT_COST = (
    "on AWS, a consumer with enhanced fan-out is charged for by the hour and shard, and for the data that it reads, on top of the stream"
)
_COST = {
    "kinesis": "on AWS, a shard is read once a second at its tip and faster behind it, out of the 5 reads and 2 MiB a second that all its "
    "consumers share; an on-demand stream charges for the data read, which is free for no poller but Lambda's own",
    "dynamodb": "on AWS, a shard is read 4 times a second at its tip, which is 345,600 GetRecords calls a day; they are charged, and free "
    "for no poller but Lambda's own",
}


@dataclass(frozen=True, slots=True)
class StreamOption:
    """A stream of AWS, as `--source` has it.

    Attributes:
        service: whose stream it is.
        name: the name of the stream or table, or an ARN.
    """

    service: Literal["kinesis", "dynamodb"]
    name: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read `kinesis:NAME`, `dynamodb:TABLE` or an ARN of either service, of a Kinesis consumer too; None for anything else."""
        if (arn := _ARN.fullmatch(text)) is not None:
            return cls("kinesis" if arn["service"] == "kinesis" else "dynamodb", text)
        if (short := _SHORT.fullmatch(text)) is not None:
            return cls("kinesis" if short["service"] == "kinesis" else "dynamodb", short["name"])
        return None

    def open(self, *, region: str | None, endpoint_url: str | None, profile: str | None) -> Source:
        """Return the source that reads the stream. Nothing is called yet.

        Raises:
            ConfigError: name, region, profile or endpoint cannot be right, or boto3 is not installed.
        """
        if self.fans_out:
            from streamcore.sources.fanout import FanOutSource  # noqa: PLC0415  (only the kind that is read is loaded)

            return FanOutSource(self.name, region=region, endpoint_url=endpoint_url, profile=profile)
        if self.service == "kinesis":
            from streamcore.sources.kinesis import KinesisSource  # noqa: PLC0415

            return KinesisSource(self.name, region=region, endpoint_url=endpoint_url, profile=profile)
        from streamcore.sources.dynamodb import DynamoDBStreamsSource  # noqa: PLC0415

        return DynamoDBStreamsSource(self.name, region=region, endpoint_url=endpoint_url, profile=profile)

    @property
    def fans_out(self) -> bool:
        """Whether it is a consumer with enhanced fan-out of a Kinesis stream."""
        return self.service == "kinesis" and "/consumer/" in self.name

    @property
    def cost(self) -> str:
        """What reading costs on AWS, in one line (Kinesis and DynamoDB pricing, Kinesis API reference, GetRecords)."""
        return _FAN_OUT_COST if self.fans_out else _COST[self.service]

    def policy(self, *, region: str | None = None, kms_key_arn: str | None = None) -> dict[str, Any]:
        """Return the IAM policy that a run needs, and no more (service authorization reference of Kinesis, DynamoDB and KMS).

        What a name does not say, region and account, is any.

        Args:
            region: the region where the stream is given by name.
            kms_key_arn: the customer managed key that the stream is encrypted with.

        Example:
            >>> policy = StreamOption("dynamodb", "orders").policy(region="eu-west-1")
            >>> [(statement["Action"], statement["Resource"]) for statement in policy["Statement"]][1]
            (['dynamodb:ListStreams'], 'arn:aws:dynamodb:eu-west-1:*:table/orders/stream/*')
        """
        arn = self.name
        if not _ARN.fullmatch(arn):
            partition = partition_of(region)
            kind = "stream" if self.service == "kinesis" else "table"
            arn = f"arn:{partition}:{self.service}:{region or '*'}:*:{kind}/{self.name}"
        newest = self.service == "dynamodb" and "/stream/" not in arn
        if newest:
            arn = f"{arn}/stream/*"
        if self.fans_out:
            resources = (arn.partition("/consumer/")[0], arn)
            groups: list[tuple[tuple[str, ...], str]] = list(zip(_FAN_OUT_ACTIONS, resources, strict=True))
        else:
            groups = [(_ACTIONS[self.service], arn)]
        statements = [_allow([f"{self.service}:{action}" for action in actions], resource) for actions, resource in groups]
        if newest:
            statements.append(_allow(["dynamodb:ListStreams"], arn))
        if kms_key_arn is not None:
            statements.append(_allow(["kms:Decrypt"], kms_key_arn))
        return {"Version": "2012-10-17", "Statement": statements}


def _allow(actions: list[str], resource: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resource}
