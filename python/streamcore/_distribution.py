"""The name under which this package is installed; `streamcore` itself belongs to another project on PyPI."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "streamcore-esm"


def version() -> str:
    """Return the installed version, "unknown" where the package is not installed but merely found."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"
