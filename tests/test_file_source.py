"""Files as streams: what a record is, where reading begins, and what every broken file says."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamcore.errors import ConfigError, SourceError, UsageError
from streamcore.protocols import Source, Start
from streamcore.sources import _text, file
from streamcore.sources._times import time_reader
from streamcore.sources.file import FileSource, _FileReader, parse_file_source
from streamcore.sources.memory import MemoryStream
from streamcore.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from streamcore.sources._records import Record

HORIZON = Start("TRIM_HORIZON")


@pytest.fixture(params=[None, 64], ids=["one chunk", "chunks of 64 bytes"])
def _chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs a test with files in one chunk, and with records that run over the ends of chunks."""
    if request.param is not None:
        monkeypatch.setattr(_text, "CHUNK_BYTES", request.param)


in_any_chunks = pytest.mark.usefixtures("_chunks")


def write(tmp_path: Path, content: str | bytes, name: str = "data.csv") -> str:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def open_reader(source: FileSource, shard: int = 0, start: Start = HORIZON) -> _FileReader:
    reader = source.open(f"shardId-{shard:012d}", start)
    assert isinstance(reader, _FileReader)
    return reader


def read_all(reader: _FileReader, limit: int = 10_000) -> Iterator[Record]:
    ended = False
    while not ended:
        records, ended = reader.records(limit)
        assert len(records) <= limit
        yield from records


def everything(source: FileSource, start: Start = HORIZON, limit: int = 10_000) -> list[Record]:
    """The records of all shards in the order of the file."""
    shards = range(len(source.list_shards()))
    return sorted((record for shard in shards for record in read_all(open_reader(source, shard, start), limit)), key=lambda r: int(r[3]))


def error_of(source: FileSource) -> tuple[list[str], str]:
    """The lines of the records before the fault, and the fault without the folder."""
    reader = open_reader(source)
    lines: list[str] = []
    with pytest.raises(SourceError) as caught:
        lines.extend(record[3] for record in read_all(reader))
    # It stays where it is: the next fetch says the same.
    with pytest.raises(SourceError, match="data"):
        reader.records(10)
    return lines, str(caught.value).rpartition("/")[2]


# What a record is.


@in_any_chunks
def test_csv_records(tmp_path: Path) -> None:
    path = write(tmp_path, "carrier,note,time_hour\nUA,,2013-01-01T10:00:00Z\nAA,x y,2013-01-01T11:00:00Z\n")
    source = FileSource(path, key="carrier", time="time_hour")
    assert isinstance(source, Source)
    assert everything(source) == [
        ("UA", b'{"carrier":"UA","note":"","time_hour":"2013-01-01T10:00:00Z"}', 1357034400000, "2"),
        ("AA", b'{"carrier":"AA","note":"x y","time_hour":"2013-01-01T11:00:00Z"}', 1357038000000, "3"),
    ]


@in_any_chunks
def test_quotes_newlines_and_what_json_must_escape(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffk,"say ""it"" 100%"\r\na,"x,\r\ny"\r\n\r\nb,\\ "q" \té\r\n"c","l1\nl2\n\nl5"\r\nd,last'.encode())
    found = everything(FileSource(path, key="k", clock=ManualClock(77)))
    assert [(record[0], record[3], record[2]) for record in found] == [("a", "2", 77), ("b", "5", 77), ("c", "6", 77), ("d", "10", 77)]
    assert [json.loads(record[1])['say "it" 100%'] for record in found] == ["x,\r\ny", '\\ "q" \té', "l1\nl2\n\nl5", "last"]
    assert "é".encode() in found[1][1]  # UTF-8 as it is, not \u00e9


@in_any_chunks
def test_ndjson_records_are_the_lines_as_they_are(tmp_path: Path) -> None:
    lines = [b'{"k":"a", "t":1357034400}', b"", b' {"t":1357034400.5,"k":7,"x":"\xc3\xa9\\u0041"} ', b'{"k":1.5,"t":"1357034400000"}']
    found = everything(FileSource(write(tmp_path, b"\n".join(lines), "data.ndjson"), key="k", time="t"))
    assert found == [
        ("a", lines[0], 1357034400000, "1"),
        ("7", lines[2], 1357034400500, "3"),
        ("1.5", lines[3], 1357034400000, "4"),
    ]
    crlf = everything(FileSource(write(tmp_path, b"\r\n".join(lines), "data.jsonl"), key="k", time="t"))
    assert crlf == found


def test_dotted_paths_and_fields_with_a_dot(tmp_path: Path) -> None:
    path = write(tmp_path, '{"user":{"id":"u1"},"at":{"ms":1357034400000}}\n{"user.id":"u2","at.ms":1357034400001}\n', "data.json")
    found = everything(FileSource(path, key="user.id", time="at.ms"))
    assert [(record[0], record[2]) for record in found] == [("u1", 1357034400000), ("u2", 1357034400001)]


def test_empty_key_stands_in_for_no_key(tmp_path: Path) -> None:
    path = write(tmp_path, "k,v\n,1\na,2\n")
    assert [record[0] for record in everything(FileSource(path, key="k", empty_key="none"))] == ["none", "a"]
    path = write(tmp_path, '{"k":null}\n{}\n{"k":""}\n{"k":"a"}\n', "data.ndjson")
    assert [record[0] for record in everything(FileSource(path, key="k", empty_key="none"))] == ["none", "none", "none", "a"]


texts = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda text: "\r" not in text.replace("\r\n", ""))


@settings(max_examples=300)
@given(
    rows=st.lists(st.tuples(st.text("abcé\n\"',", min_size=1, max_size=3), texts, texts), max_size=30),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
    chunk=st.sampled_from([16, 37, 64, 262144]),
    shards=st.integers(1, 3),
    resume=st.integers(0, 30),
)
def test_csv_equals_the_csv_module(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    rows: list[tuple[str, str, str]],
    quoting: int,
    end: str,
    chunk: int,
    shards: int,
    resume: int,
) -> None:
    """Whatever csv writes is read back, each record at its line, from the start and behind any record."""
    out = io.StringIO()
    writer = csv.writer(out, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]  # csv's stub wants the literal
    writer.writerow(["key", 'a "1"', "b%s"])
    expected = []
    for row in rows:
        expected.append((out.getvalue().count("\n") + 1, row))
        writer.writerow(row)
    path = write(tmp_path_factory.mktemp("csv"), out.getvalue())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_text, "CHUNK_BYTES", chunk)
        source = FileSource(path, key="key", shards=shards)
        found = [(int(line), key, json.loads(payload)) for key, payload, _, line in everything(source)]
        assert found == [(line, row[0], {"key": row[0], 'a "1"': row[1], "b%s": row[2]}) for line, row in expected]
        if resume < len(rows):
            start = Start("AFTER_SEQUENCE_NUMBER", sequence_number=str(expected[resume][0]))
            assert [int(record[3]) for record in everything(source, start, limit=3)] == [line for line, _ in expected[resume + 1 :]]


@given(
    objects=st.lists(st.dictionaries(texts, st.one_of(texts, st.integers(), st.none()), max_size=3), max_size=20),
    ascii_only=st.booleans(),
    chunk=st.integers(16, 99),
)
def test_ndjson_gives_every_line_back(
    tmp_path_factory: pytest.TempPathFactory, *, objects: list[dict[str, object]], ascii_only: bool, chunk: int
) -> None:
    lines = [json.dumps({**value, "key": f"k{index % 3}"}, ensure_ascii=ascii_only).encode() for index, value in enumerate(objects)]
    path = write(tmp_path_factory.mktemp("ndjson"), b"\n".join(lines), "data.ndjson")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_text, "CHUNK_BYTES", chunk)
        found = everything(FileSource(path, key="key", shards=2))
    assert [(int(record[3]), record[1]) for record in found] == list(enumerate(lines, 1))


# Shards.


def test_keys_go_to_the_shards_of_kinesis(tmp_path: Path) -> None:
    keys = [f"key-{index}" for index in range(200)]
    source = FileSource(write(tmp_path, "k\n" + "\n".join(keys)), key="k", shards=5)
    stream = MemoryStream("s", shards=5)
    for shard, description in enumerate(source.list_shards()):
        assert description.closed
        for key, _, _, _ in read_all(open_reader(source, shard)):
            assert stream.put(key, b"")[0] == description.shard_id
            keys.remove(key)
    assert keys == []


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_shard_that_is_not_read_holds_no_other_and_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: int) -> None:
    """One shard is left alone until the others are through; queues stay bounded, and it still gets everything in order."""
    monkeypatch.setattr(_text, "CHUNK_BYTES", 512)
    monkeypatch.setattr(file, "_QUEUE_RECORDS_MAX", 50)
    source = FileSource(write(tmp_path, "k,v\n" + "".join(f"{index % 17},{index}\n" for index in range(5_000))), key="k", shards=3)
    readers = [open_reader(source, shard) for shard in range(3)]
    expected = [[record[3] for record in read_all(open_reader(source, shard))] for shard in range(3)]
    found: list[list[str]] = [[], [], []]
    others = [shard for shard in range(3) if shard != slow]
    live = set(others)
    while live:
        for shard in sorted(live):
            records, ended = readers[shard].records(20)
            found[shard] += [record[3] for record in records]
            if ended:
                live.discard(shard)
        held = [queue.records for one in source._passes for queue in one._queues]
        assert max(held) <= 50 + 512 // 4
    found[slow] = [record[3] for record in read_all(readers[slow], 7)]
    assert found == expected
    assert sorted(int(line) for lines in found for line in lines) == list(range(2, 5_002))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40)), max_size=60), st.lists(st.integers(0, 130), min_size=4, max_size=4))
@settings(max_examples=50)
def test_any_interleaving_of_fetches_gives_each_shard_its_records(
    tmp_path_factory: pytest.TempPathFactory, fetches: list[tuple[int, int]], after: list[int]
) -> None:
    """Four shards that begin at different lines, are opened when first read, and are read in any order with tiny queues."""
    path = write(tmp_path_factory.mktemp("mix"), "k,v\n" + "".join(f"{index % 23},{index}\n" for index in range(120)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_text, "CHUNK_BYTES", 100)
        patch.setattr(file, "_QUEUE_RECORDS_MAX", 10)
        source = FileSource(path, key="k", shards=4)
        lines = [[int(record[3]) for record in read_all(open_reader(source, shard))] for shard in range(4)]
        readers: dict[int, _FileReader] = {}
        found: dict[int, list[int]] = {shard: [] for shard in range(4)}
        for shard, limit in [*fetches, *((shard, 33) for shard in range(4) for _ in range(50))]:
            if shard not in readers:
                readers[shard] = open_reader(source, shard, Start("AFTER_SEQUENCE_NUMBER", sequence_number=str(after[shard])))
            found[shard] += [int(record[3]) for record in readers[shard].records(limit)[0]]
        assert found == {shard: [line for line in lines[shard] if line > after[shard]] for shard in range(4)}
        for reader in readers.values():
            reader.close()
            reader.close()
        assert all(one._file is None for one in source._passes)


def test_readers_that_keep_up_share_one_pass(tmp_path: Path) -> None:
    source = FileSource(write(tmp_path, "k,v\n" + "".join(f"{index % 17},{index}\n" for index in range(5_000))), key="k", shards=8)
    readers = [open_reader(source, shard) for shard in range(8)]
    for reader in readers:
        list(read_all(reader))
    assert len(source._passes) == 1
    for reader in readers:
        reader.close()
    assert source._passes == []


# Where reading begins.


def test_every_start(tmp_path: Path) -> None:
    source = FileSource(write(tmp_path, "k,t\na,1000000010\na,1000000030\na,1000000020\n"), key="k", time="t")
    assert [record[3] for record in everything(source, Start("AT_TIMESTAMP", timestamp_ms=1000000020_000))] == ["3", "4"]
    assert everything(source, Start("AT_TIMESTAMP", timestamp_ms=1000000031_000)) == []
    assert [record[3] for record in everything(source, Start("AFTER_SEQUENCE_NUMBER", sequence_number="3"))] == ["4"]
    assert everything(source, Start("AFTER_SEQUENCE_NUMBER", sequence_number="999")) == []
    for at, expected in [("0", ["2", "3", "4"]), ("2", ["2", "3", "4"]), ("3", ["3", "4"]), ("5", [])]:
        assert [record[3] for record in everything(source, Start("AT_SEQUENCE_NUMBER", sequence_number=at))] == expected
    latest = source.open("shardId-000000000000", Start("LATEST"))
    assert latest.fetch(10).ended
    latest.close()


def test_a_start_at_a_record_of_several_lines(tmp_path: Path) -> None:
    source = FileSource(write(tmp_path, 'k,t\na,"1\n2\n3"\nb,"4\n5"\nc,6\n'), key="k")
    assert [record[3] for record in everything(source)] == ["2", "5", "7"]
    assert [record[3] for record in everything(source, Start("AT_SEQUENCE_NUMBER", sequence_number="5"))] == ["5", "7"]


@pytest.mark.parametrize(
    ("start", "text"),
    [
        (Start("AT_TIMESTAMP", timestamp_ms=5), "time column"),
        (Start("AFTER_SEQUENCE_NUMBER", sequence_number="4x"), "line number"),
        (Start("AFTER_SEQUENCE_NUMBER"), "line number"),
    ],
    ids=["no time column", "no number", "nothing"],
)
def test_a_start_that_a_file_has_not_is_refused(tmp_path: Path, start: Start, text: str) -> None:
    source = FileSource(write(tmp_path, "k\na\n"), key="k")
    with pytest.raises(SourceError, match=text):
        source.open("shardId-000000000000", start)
    with pytest.raises(SourceError, match="no shard"):
        source.open("shardId-000000000001", HORIZON)


# Packing.


@in_any_chunks
def test_gzip_and_zip(tmp_path: Path) -> None:
    plain = "k,v\n" + "".join(f"key{index},{index}\n" for index in range(100))
    expected = everything(FileSource(write(tmp_path, plain), key="k", clock=ManualClock()))
    members = gzip.compress(plain[:300].encode()) + gzip.compress(plain[300:].encode())
    assert everything(FileSource(write(tmp_path, members, "data.csv.gz"), key="k", clock=ManualClock())) == expected
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder")
        archive.writestr("folder/data.csv", plain)
    path = write(tmp_path, packed.getvalue(), "data.zip")
    assert everything(FileSource(path, key="k", clock=ManualClock())) == expected
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.ndjson", '{"k":"x"}')
    with pytest.raises(SourceError, match=r"2 files, say which with member=NAME: folder/data.csv, other.ndjson"):
        FileSource(path, key="k")
    assert everything(FileSource(path, key="k", member="other.ndjson"))[0][0] == "x"
    with pytest.raises(SourceError, match=r"no member 'x.csv'; it holds: folder/data.csv"):
        FileSource(path, key="k", member="x.csv")


@in_any_chunks
def test_a_file_that_is_cut_off_gives_what_it_has_and_says_where(tmp_path: Path) -> None:
    plain = ("k,v\n" + "".join(f"key{index},{index * 7919}\n" for index in range(20_000))).encode()
    path = write(tmp_path, gzip.compress(plain)[:-20_000], "data.csv.gz")
    lines, text = error_of(FileSource(path, key="k"))
    assert len(lines) > 5_000
    assert text == f"data.csv.gz:{int(lines[-1]) + 1}: the compressed data ends too early; the file is cut off"
    assert lines == [str(line) for line in range(2, len(lines) + 2)]


def test_damaged_packing(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(b"k\n" + b"a\n" * 50))
    whole[-6] ^= 1  # the checksum
    assert error_of(FileSource(write(tmp_path, bytes(whole), "data.csv.gz"), key="k"))[1].startswith(
        "data.csv.gz:52: the file cannot be read on"
    )
    with pytest.raises(SourceError, match="does not begin as a gzip file"):
        FileSource(write(tmp_path, "k\na\n", "data.csv.gz"), key="k")
    with pytest.raises(SourceError, match="zip"):
        FileSource(write(tmp_path, "k\na\n", "data.csv.zip"), key="k")
    with pytest.raises(SourceError, match="for zip files"):
        FileSource(write(tmp_path, "k\na\n"), key="k", member="x")


# Faults: the records before are handed out, the text begins with file and line.

FAULTS: dict[str, tuple[str, bytes, list[str], str]] = {
    "few fields": ("data.csv", b"k,v\na,1\nb\n", ["2"], "data.csv:3: 1 field, but the header has 2"),
    "many fields": ("data.csv", b"k,v\na,1\nb,2,3\n", ["2"], "data.csv:3: 3 fields, but the header has 2"),
    "empty key": ("data.csv", b"k,v\na,1\n,2\n", ["2"], "data.csv:3: the key column 'k' is empty; empty_key=TEXT"),
    "long key": (
        "data.csv",
        b"k,v\na,1\n" + b"x" * 257 + b",2\n",
        ["2"],
        "data.csv:3: a partition key has 1 to 256 characters, this one has 257",
    ),
    "open quote": ("data.csv", b'k,v\na,1\nb,"2\nc,3\n', ["2"], "data.csv:3: the quote that opens in this record is never closed"),
    "text behind a quote": ("data.csv", b'k,v\na,"1\n2"\nb,"2"x\n', ["2"], "data.csv:4: ',' expected after '\"'"),
    "lone carriage return": ("data.csv", b"k,v\na,1\nb,2\rc,3\n", ["2"], "data.csv:3: a carriage return stands inside a field"),
    "not UTF-8": ("data.csv", b"k,v\na,1\nb,\xe9t\xe9\n", ["2"], "data.csv:3: not UTF-8: byte 0xe9 at byte 3 of the line"),
    "not UTF-8 inside quotes": ("data.csv", b'k,v\na,1\nb,"x\n\xff"\n', ["2"], "data.csv:4: not UTF-8: byte 0xff at byte 1 of the line"),
    "huge field": ("data.csv", b'k,v\na,1\nb,"' + b"x\n" * 70_000, ["2"], "data.csv:3: a field is longer than 131072 characters"),
    "bad JSON": ("data.ndjson", b'{"k":"a"}\n{"k":"b",}\n', ["1"], "data.ndjson:2: not JSON: "),
    "text behind JSON": ("data.ndjson", b'{"k":"a"}\n{"k":"b"} x\n', ["1"], "data.ndjson:2: not JSON: Extra data at column 11"),
    "no object": ("data.ndjson", b'{"k":"a"}\n["k"]\n', ["1"], "data.ndjson:2: not a JSON object but an array"),
    "no object but text": ("data.ndjson", b'{"k":"a"}\n"k"\n', ["1"], "data.ndjson:2: not a JSON object but a text"),
    "no field": (
        "data.ndjson",
        b'{"k":"a"}\n{"kk":"b"}\n',
        ["1"],
        "data.ndjson:2: there is no field 'k'; did you mean 'kk'? The fields are: kk",
    ),
    "null key": ("data.ndjson", b'{"k":"a"}\n{"k":null}\n', ["1"], "data.ndjson:2: the key field 'k' is empty; empty_key=TEXT"),
    "key of the wrong kind": (
        "data.ndjson",
        b'{"k":"a"}\n{"k":true}\n',
        ["1"],
        "data.ndjson:2: the key field 'k' is true;",
    ),
    "surrogate": ("data.ndjson", b'{"k":"a"}\n{"k":"\\ud800"}\n', ["1"], "data.ndjson:2: the partition key '\\ud800' holds half"),
    "deep": ("data.ndjson", b'{"k":"a"}\n' + b"[" * 100_000 + b"\n", ["1"], "data.ndjson:2: the JSON is nested too deeply"),
    "NDJSON not UTF-8": ("data.ndjson", b'{"k":"a"}\n{"k":"\xff"}\n', ["1"], "data.ndjson:2: not UTF-8: byte 0xff at byte 7 of the line"),
}


@in_any_chunks
@pytest.mark.parametrize("what", FAULTS)
def test_a_broken_line_is_named(tmp_path: Path, what: str) -> None:
    name, content, before, text = FAULTS[what]
    lines, found = error_of(FileSource(write(tmp_path, content, name), key="k"))
    assert (lines, found[: len(text)]) == (before, text)


@pytest.mark.parametrize("name", ["data.csv", "data.ndjson"])
def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(_text, "RECORD_BYTES_MAX", 10_000)
    monkeypatch.setattr(_text, "CHUNK_BYTES", 1_000)
    head = b"k\na\n" if name == "data.csv" else b'{"k":"a"}\n'
    lines, text = error_of(FileSource(write(tmp_path, head + b"x" * 50_000, name), key="k"))
    assert len(lines) == 1
    assert text == f"{name}:{int(lines[0]) + 1}: the line is longer than 10000 bytes"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "data.csv:1: the file has no header line"),
        ("\n\nk,v,k\n", "data.csv:3: the header names the column 'k' more than once"),
        ("carier,time\n", "data.csv:1: there is no column 'carrier'; did you mean 'carier'? The columns are: carier, time"),
        ("x,y\n", "data.csv:1: there is no column 'carrier'; The columns are: x, y"),
        ('carrier,"time\n', "data.csv:1: the quote that opens in this record is never closed"),
    ],
    ids=["empty", "twice", "near", "far", "open quote"],
)
def test_a_broken_header_is_told_at_once(tmp_path: Path, content: str, text: str) -> None:
    with pytest.raises(SourceError) as caught:
        FileSource(write(tmp_path, content), key="carrier")
    assert str(caught.value).rpartition("/")[2] == text


def test_a_missing_file_and_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere.csv: No such file"):
        FileSource(tmp_path / "nowhere.csv", key="k")
    with pytest.raises(SourceError, match="directory"):
        FileSource(tmp_path, key="k", format="csv")
    with pytest.raises(ConfigError, match="format=csv or format=ndjson"):
        FileSource(write(tmp_path, "k\n", "data.txt"), key="k")
    assert everything(FileSource(write(tmp_path, "k\na\n", "data.txt"), key="k", format="csv"))[0][0] == "a"


def test_a_file_that_changes_is_not_mixed(tmp_path: Path) -> None:
    path = write(tmp_path, "k\na\n")
    source = FileSource(path, key="k")
    write(tmp_path, "k\na\nb\n")
    with pytest.raises(SourceError, match="has changed"):
        everything(source)


def test_closed_means_closed(tmp_path: Path) -> None:
    source = FileSource(write(tmp_path, "k\na\n"), key="k")
    reader, closed = open_reader(source), open_reader(source)
    closed.close()
    source.close()
    source.close()
    for call in (lambda: reader.records(1), lambda: closed.records(1), lambda: open_reader(source)):
        with pytest.raises(UsageError, match="closed"):
            call()
    reader.close()


# Identity.


def test_identity_tells_incarnations_apart(tmp_path: Path) -> None:
    """Path, size, the first 4 KiB, and whatever decides which record is where."""
    path = write(tmp_path, "k,t\na,1000000000\n")

    def identity(path: str = path, **options: object) -> str:
        return FileSource(path, **{"key": "k", **options}).describe().identity  # type: ignore[arg-type]  # options of the table below

    first = identity()
    assert identity() == first
    others = [
        identity(shards=2),
        identity(key="t"),
        identity(time="t"),
        identity(time="t", time_format="epoch_s"),
        identity(empty_key="x"),
        identity(write(tmp_path, "k,t\na,1000000000\n", "copy.csv")),
    ]
    write(tmp_path, "k,t\na,1000000001\n")
    others.append(identity())
    write(tmp_path, "k,t\na,1000000000\nb,1000000000\n")
    others.append(identity())
    assert len({first, *others}) == 9


def test_description(tmp_path: Path) -> None:
    description = FileSource(write(tmp_path, "k\na\n", "my flights.csv"), key="k").describe()
    assert description.event_source_arn == "arn:aws:kinesis:us-east-1:000000000000:stream/my_flights.csv"
    assert (description.clock, description.retention_ms, description.poll_interval_ms) == ("replay", None, 0)


# Times.


@given(st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  (hypothesis wants them bare)
def test_forms_of_one_time(time: datetime) -> None:
    millis = (time - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution * 1000)
    read = time_reader(None)
    assert read(time.isoformat()) == read(time.isoformat(" ").removesuffix("+00:00")) == read(str(millis)) == millis
    assert read(f"{millis // 1000}.{millis % 1000:03d}") == time_reader("epoch_s")(f"{millis}e-3") == millis
    assert time_reader("%Y%m%d%H%M%S.%f")(time.strftime("%Y%m%d%H%M%S.%f")) == millis


@pytest.mark.parametrize(
    ("time_format", "text", "reason"),
    [
        (None, "20130101", "several things"),
        (None, "2013", "several things"),
        (None, "1e18", "several things"),
        (None, "yesterday", "ISO 8601"),
        (None, "", "ISO 8601"),
        ("iso8601", "1357034400", "ISO 8601"),
        ("epoch_ms", "2013-01-01", "not a number"),
        ("epoch_s", "nan", "not a number"),
        ("%d.%m.%Y", "2013-01-01", "does not fit"),
    ],
)
def test_a_bad_time_says_why(tmp_path: Path, time_format: str | None, text: str, reason: str) -> None:
    path = write(tmp_path, f"k,t\na,{text}\n")
    lines, found = error_of(FileSource(path, key="k", time="t", time_format=time_format))
    assert lines == []
    assert found.startswith(f"data.csv:2: the time column 't' holds {text!r}: ")
    assert reason in found


# The text of --source.


def test_source_text(tmp_path: Path) -> None:
    path = write(tmp_path, "my key;x,t\n", "a b?.txt")
    text = f"file:{path.replace('?', '%3F')}?key=my%20key;x&time=t&time_format=%d.%m.%Y %H:%M&shards=4&format=csv&empty_key="
    with pytest.raises(ConfigError, match="empty_key: a partition key has 1 to 256"):
        parse_file_source(text)
    source = parse_file_source(text + "none")
    assert len(source.list_shards()) == 4
    assert source._columns[:3] == ("my key;x", "t", "none")
    assert parse_file_source(f"file://{write(tmp_path, 'k')}?key=k").describe().event_source_arn.endswith("/data.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flights.csv?key=k", "file:PATH"),
        ("file:?key=k", "file:PATH"),
        ("file:data.csv", "say which column holds the key, as in file:data.csv\\?key=COLUMN"),
        ("file:data.csv?keys=k", "no option 'keys'; did you mean 'key'\\? The options are: key, time,"),
        ("file:data.csv?key", "needs a value"),
        ("file:data.csv?key=a&key=b", "twice"),
        ("file:data.csv?key=k&shards=two", "shards must be a whole number, not 'two'"),
        ("file:data.csv?key=k&shards=0", "1 to 10000, not 0"),
        ("file:data.csv?key=", "key must name a column"),
        ("file:data.csv?key=k&format=xml", "csv or ndjson, not 'xml'"),
        ("file:data.csv?key=k&time=t&time_format=unix", "iso8601, epoch_s, epoch_ms or a strptime pattern"),
    ],
)
def test_a_wrong_source_text_says_what_would_be_right(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_file_source(text)


def test_fetch_makes_pages(tmp_path: Path) -> None:
    """The same through the binding: what a worker gets."""
    source = FileSource(write(tmp_path, "k,v\na,1\nb,2\nc,3\n"), key="k")
    reader = source.open("shardId-000000000000", HORIZON)
    first, second = reader.fetch(2), reader.fetch(2)
    assert first.page is not None
    assert (len(first.page), first.page.last_sequence_number, first.ended, first.millis_behind) == (2, "3", False, None)
    while not second.ended:
        assert second.page is not None
        second = reader.fetch(2)
    assert second.millis_behind == 0
    assert reader.fetch(2).ended
