"""Finds the Python function that a target names."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamcore.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import ModuleType

__all__ = ["load_function"]

_FORMS = "package.module:function or path/to/file.py:function"


def load_function(target: str) -> Callable[[Any, Any], Any]:
    """Return the function that `target` names, importing its module.

    The current folder, and before it the file's own, are put first on `sys.path`, as `python -m` and `python FILE` do, so that a handler
    finds the modules beside it.

    Args:
        target: `package.module:function` or `path/to/file.py:function`. After the colon a dotted name reaches into an object.

    Raises:
        ConfigError: there is no such module, file or function, the import failed, or what was found cannot be called.

    Example:
        >>> load_function("json:dumps")([1, 2])
        '[1, 2]'
    """
    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise _error(f"function {target!r} is not of the form {_FORMS}")
    _put_on_path(Path.cwd())
    module = _module_of_file(where) if where.endswith(".py") else _module(where)
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [other for other, value in vars(found).items() if callable(value)] if hasattr(found, "__dict__") else []
            raise _error(f"{where} has no {name!r}.{_near(part, names)}") from None
    if not callable(found):
        raise _error(f"{name!r} of {where} is {type(found).__name__}, which cannot be called; name a function (event, context)")
    function: Callable[[Any, Any], Any] = found
    return function


def _module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise _error(f"{name!r} is not the name of a module; a function is named by {_FORMS}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            raise _import_error(name, error) from error
        parent, _, last = missing.rpartition(".")
        folders = getattr(sys.modules.get(parent), "__path__", None) if parent else [str(Path.cwd())]
        near = _near(last, (module.name for module in pkgutil.iter_modules(folders)) if folders is not None else ())
        raise _error(f"there is no module {missing!r} here or among the installed packages.{near}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _import_error(name, error) from error


def _module_of_file(where: str) -> ModuleType:
    path = Path(where).resolve()
    if not path.is_file():
        names = (other.name for other in path.parent.glob("*.py")) if path.parent.is_dir() else ()
        raise _error(f"there is no file {where!r}.{_near(path.name, names)}")
    _put_on_path(path.parent)
    # Under its own name, so that the modules beside it can import it; under another one where that would hide a module.
    other = f"streamcore_function_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
    for name in (path.stem, other):
        if getattr(sys.modules.get(name), "__file__", None) == str(path):
            return sys.modules[name]
    name = other if path.stem in sys.modules or not path.stem.isidentifier() else path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _error(f"{where} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _import_error(where, error) from error
    return module


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_error(where: str, error: BaseException) -> ConfigError:
    """Say what went wrong and the place nearest to it, without the whole traceback, which is the error's cause."""
    if isinstance(error, SyntaxError):
        place, said = f"{error.filename}, line {error.lineno}", error.msg
    else:
        # The last frame that is not the import machinery's.
        frame, place = error.__traceback__, ""
        while frame is not None:
            if not frame.tb_frame.f_code.co_filename.startswith("<frozen") and frame.tb_frame.f_globals.get("__name__") != __name__:
                place = f"{frame.tb_frame.f_code.co_filename}, line {frame.tb_lineno}"
            frame = frame.tb_next
        said = str(error)
    at = f" ({place})" if place else ""
    return _error(f"importing {where} failed: {type(error).__name__}{f': {said}' if said else ''}{at}")


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _error(text: str) -> ConfigError:
    return ConfigError(text, parameter="function")
