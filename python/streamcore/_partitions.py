"""The partitions of AWS, which ARNs begin with."""

from __future__ import annotations

__all__ = ["partition_of"]

_PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}


def partition_of(region: str | None) -> str:
    """Return the partition that a region is in (IAM user guide, "Amazon Resource Names"); "aws" where the region is not known.

    >>> partition_of("cn-north-1"), partition_of("eu-west-1"), partition_of(None)
    ('aws-cn', 'aws', 'aws')
    """
    return next((name for start, name in _PARTITIONS.items() if (region or "").startswith(start)), "aws")
