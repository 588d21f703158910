"""Which shard a record goes to: the rule of Kinesis Data Streams.

Kinesis maps the MD5 of the partition key, read as a 128-bit number, onto ranges that the shards share out among themselves (Kinesis
developer guide, "Terminology and concepts": partition key). `MemoryStream` and `FileSource` follow the same rule, so a key lands in the
same shard in both.
"""

from __future__ import annotations

from hashlib import md5

from streamcore.errors import ConfigError

__all__ = ["HASH_KEY_MAX", "KEY_LENGTH_MAX", "check_key", "even_ranges", "hash_key", "kinesis_arn", "shard_name"]

HASH_KEY_MAX = 2**128 - 1
"""The largest hash key; the smallest is 0."""

KEY_LENGTH_MAX = 256
"""The longest partition key in Unicode characters (Kinesis API, PutRecord); the shortest is 1."""

SHARDS_MAX = 10_000


def hash_key(partition_key: str) -> int:
    """Return the hash key of a partition key: the MD5 of its UTF-8 bytes as a big-endian number.

    >>> hash_key("") == 0xD41D8CD98F00B204E9800998ECF8427E
    True
    """
    return int.from_bytes(md5(partition_key.encode(), usedforsecurity=False).digest())


def even_ranges(shards: int) -> list[tuple[int, int]]:
    """Return the first and last hash key of each of `shards` shards, as CreateStream lays them out.

    >>> even_ranges(1) == [(0, 2**128 - 1)]
    True
    >>> even_ranges(3)[0]
    (0, 113427455640312821154458202477256070484)

    Raises:
        ConfigError: `shards` is not in 1..10,000.
    """
    if not 1 <= shards <= SHARDS_MAX:
        raise ConfigError(f"shards must be a whole number from 1 to {SHARDS_MAX}, not {shards}", parameter="shards")
    size = (HASH_KEY_MAX + 1) // shards
    starts = [size * index for index in range(shards)]
    return list(zip(starts, [start - 1 for start in starts[1:]] + [HASH_KEY_MAX], strict=True))


def check_key(partition_key: str) -> None:
    """Check that Kinesis would take a partition key.

    Raises:
        ValueError: it is empty, longer than 256 characters, or holds half of a surrogate pair; the message says which.
    """
    if not 1 <= len(partition_key) <= KEY_LENGTH_MAX:
        raise ValueError(f"a partition key has 1 to {KEY_LENGTH_MAX} characters, this one has {len(partition_key)}")
    try:
        partition_key.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the partition key {partition_key!r} holds half of a surrogate pair, which UTF-8 cannot carry") from None


def shard_name(index: int) -> str:
    """Return the name that Kinesis gives to the shard made as number `index` of a stream.

    >>> shard_name(7)
    'shardId-000000000007'
    """
    return f"shardId-{index:012d}"


def kinesis_arn(name: str) -> str:
    """Return the ARN that events of a stream outside AWS carry: region us-east-1, account 000000000000.

    Characters that a stream's name may not have become "_"; a name has at most 128 characters, the last ones are kept.
    """
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in name)
    return f"arn:aws:kinesis:us-east-1:000000000000:stream/{safe[-128:]}"
