"""Importing streamcore does nothing but make names available."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import streamcore
from streamcore._distribution import DISTRIBUTION

_MEASURE = """
import json, logging, os, signal, sys, threading

before = {
    "modules": set(sys.modules),
    "files": set(os.listdir("/proc/self/fd")),
    "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
}
%s
loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("streamcore")]
print(json.dumps({
    "modules": sorted(set(sys.modules) - before["modules"]),
    "files": sorted(set(os.listdir("/proc/self/fd")) - before["files"]),
    "threads": threading.active_count(),
    "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before["handlers"],
    "log_handlers": len(logging.root.handlers) + sum(len(logger.handlers) for logger in loggers),
}))
"""


def measured(code: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", _MEASURE % code], capture_output=True, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_the_package_loads_nothing_but_itself() -> None:
    result = measured("import streamcore")
    modules = {str(name) for name in result["modules"]}  # type: ignore[attr-defined]
    assert {name for name in modules if name.startswith("streamcore")} == {"streamcore"}
    assert {name.partition(".")[0] for name in modules} <= {"streamcore", "__future__", "typing", "_typing"}
    assert (result["files"], result["threads"], result["signals"], result["log_handlers"]) == ([], 1, False, 0)


def test_using_every_name_starts_nothing_and_needs_no_other_package() -> None:
    result = measured("import streamcore\nfor name in streamcore.__all__: getattr(streamcore, name)")
    loaded = {str(name).partition(".")[0] for name in result["modules"]}  # type: ignore[attr-defined]
    assert not loaded & {"numpy", "boto3", "botocore", "urllib3", "h2", "httptools"}
    assert (result["threads"], result["signals"], result["log_handlers"]) == (1, False, 0)


def test_a_whole_run_with_dicts_needs_no_numpy() -> None:
    result = measured(
        "from streamcore import *\n"
        "stream = MemoryStream('s'); stream.put('k', b'x')\n"
        "worker = Worker(checkpoints=MemoryCheckpointStore())\n"
        "worker.add(EventSourceMapping(starting_position='TRIM_HORIZON'), stream, LocalFunction(lambda event, context: None))\n"
        "assert worker.run(until_idle=True).succeeded == 1"
    )
    assert "numpy" not in result["modules"]  # type: ignore[operator]
    assert (result["threads"], result["signals"]) == (1, False)


def test_every_public_name_is_there_once_and_listed() -> None:
    assert len(streamcore.__all__) == len(set(streamcore.__all__))
    assert set(streamcore._HOME) == set(streamcore.__all__)
    assert set(streamcore.__all__) <= set(dir(streamcore))
    for name in streamcore.__all__:
        value = getattr(streamcore, name)
        if name != "__version__":
            assert callable(value), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'streamcore' has no attribute 'nothing'"):
        _ = streamcore.nothing


def test_the_version_tells_the_name_to_install() -> None:
    done = subprocess.run([sys.executable, "-m", "streamcore", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"streamcore {streamcore.__version__} ({DISTRIBUTION})\n"
