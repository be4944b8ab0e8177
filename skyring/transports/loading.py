"""Finding transports: a class or an object, an installed name, a module's class, or a file.

The forms and the wording of the errors follow uvicorn's ``module:attribute``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeAlias

from skyring.errors import ConfigError
from skyring.transports.base import Transport, TransportOptions, told

__all__ = ["GROUP", "Found", "TransportSpec", "find", "installed"]

GROUP = "skyring.transports"
"""Entry points of this group are installed transports."""
FILE_MODULE_PREFIX = "skyring_transport_"

TransportSpec: TypeAlias = str | Transport | type[Transport]
"""``Class``, an object of it, ``"name"``, ``"package.module:Class"``, ``"./file.py[:Class]"``."""

ASYNCHRONOUS = {"deliver": True, "open": True, "close": True, "check": False, "destination": False}
"""Which methods of a transport are coroutines."""

_FILE = re.compile(r"(?P<path>.+?\.py)(?::(?P<name>[^:/\\]*))?")
_REFERENCE = re.compile(r"(?P<module>\w+(?:\.\w+)*):(?P<name>\w+(?:\.\w+)*)")


class Found(NamedTuple):
    """A transport that is not configured yet, and where it comes from, in words."""

    given: type[Transport] | Transport
    source: str


def installed() -> dict[str, importlib.metadata.EntryPoint]:
    """The transports of installed distributions, by name."""
    return {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}


def find(spec: TransportSpec) -> Found:
    """The transport that a specification means, checked to be one.

    Raises:
        ConfigError: there is none, or it is no transport.
    """
    if not isinstance(spec, str):
        cls = spec if isinstance(spec, type) else type(spec)
        shown = cls.__qualname__ if isinstance(spec, type) else f"{spec!r}"
        _check(spec, shown)
        return Found(spec, f"{cls.__module__}:{cls.__qualname__}")
    if spec.endswith(".py") or "/" in spec or _FILE.fullmatch(spec) is not None:
        return _find_in_file(spec)
    if ":" in spec:
        return _find_in_module(spec)
    return _find_installed(spec)


def _find_installed(name: str) -> Found:
    point = installed().get(name)
    if point is None:
        names = ", ".join(sorted(installed())) or "none"
        raise ConfigError(
            f"no transport {name!r} is installed (installed: {names}); others are given as"
            " package.module:Class or as a path such as ./my_transport.py"
        )
    dist = point.dist
    package = f"{dist.name} {dist.version}, " if dist is not None else ""
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # it may be anybody's code
        raise ConfigError(
            f"the transport {name!r} cannot be loaded from {package}{point.value}: {_told(error)}"
        ) from error
    _check(found, f"{point.value} of the transport {name!r}")
    if found.name != name:
        raise ConfigError(f"{point.value} is installed as {name!r} but calls itself {found.name!r}")
    return Found(found, f"{package}{point.value}")


def _find_in_module(spec: str) -> Found:
    match = _REFERENCE.fullmatch(spec)
    if match is None:
        raise ConfigError(f"{spec!r} is not of the form package.module:Class")
    try:
        module = importlib.import_module(match["module"])
    except (Exception, SystemExit) as error:  # it may be anybody's code
        raise ConfigError(f"{spec}: cannot import {match['module']}: {_told(error)}") from error
    return Found(_attribute(module, match["name"], spec), spec)


def _find_in_file(spec: str) -> Found:
    match = _FILE.fullmatch(spec)
    if match is None:
        raise ConfigError(f"{spec!r} is not of the form path/file.py or path/file.py:Class")
    path = Path(match["path"]).expanduser()
    module = _load_file(path)
    name = match["name"]
    if name is not None:
        return Found(_attribute(module, name, spec), f"{path}:{name}")
    classes = _transports_of(module)
    if len(classes) != 1:
        names = ", ".join(cls.__name__ for cls in classes)
        found = (
            f"several transports ({names}); say which: {path}:{classes[0].__name__}"
            if classes
            else ("no class derived from skyring.transports.Transport")
        )
        raise ConfigError(f"{path} has {found}")
    _check(classes[0], f"{path}:{classes[0].__name__}")
    return Found(classes[0], f"{path}:{classes[0].__name__}")


def _transports_of(module: ModuleType) -> list[type[Transport]]:
    """Those that are defined there, without the bases of others."""
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Transport)
        and value.__module__ == module.__name__
    ]
    classes = list(dict.fromkeys(classes))
    return [cls for cls in classes if not any(cls in other.__mro__[1:] for other in classes)]


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"{path} is {'no file' if path.exists() else 'not there'}")
    # The check sum keeps files of the same name in different directories apart.
    name = f"{FILE_MODULE_PREFIX}{path.stem}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} cannot be loaded as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pydantic look it up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # it may be anybody's code
        del sys.modules[name]
        raise ConfigError(f"{path} cannot be loaded: {_told(error)}") from error
    return module


def _attribute(module: ModuleType, name: str, spec: str) -> type[Transport] | Transport:
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(f"{spec}: there is no {name} in it") from None
        except Exception as error:  # a module may answer for itself
            raise ConfigError(f"{spec}: {name} cannot be had: {_told(error)}") from error
    return _check(found, spec)


def _check(found: object, shown: str) -> type[Transport] | Transport:
    """Is it a transport that can deliver?"""
    cls = found if isinstance(found, type) else type(found)
    if not issubclass(cls, Transport):
        raise ConfigError(
            f"{shown} is not a Transport: it is not derived from skyring.transports.Transport"
        )
    if cls.deliver is Transport.deliver or not callable(cls.deliver):
        raise ConfigError(f"{shown} has no deliver method")
    for name, is_async in ASYNCHRONOUS.items():
        _check_method(getattr(cls, name), f"{shown}: {name}", is_async)
    options: object = cls.Options
    if not (isinstance(options, type) and issubclass(options, TransportOptions)):
        raise ConfigError(f"{shown}: its class Options is not derived from Transport.Options")
    return found  # type: ignore[return-value]


def _check_method(method: object, shown: str, is_async: bool) -> None:
    # What a decorator has made cannot be told from outside.
    if not inspect.isfunction(method) or hasattr(method, "__wrapped__"):
        return
    if inspect.isasyncgenfunction(method) or inspect.isgeneratorfunction(method):
        raise ConfigError(f"{shown} has a yield, so it is never run")
    if is_async and not inspect.iscoroutinefunction(method):
        raise ConfigError(f"{shown} has to be defined with async def")
    if not is_async and inspect.iscoroutinefunction(method):
        raise ConfigError(f"{shown} must not be defined with async def")


def _told(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {error.msg}"
    return told(error)
