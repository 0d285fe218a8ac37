"""Loaded by Python itself at the start of each process under test; imports nothing of the project."""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_FOLDER = Path(os.environ["FAILPOINTS"])
_HANG_S = 3_600


def _pass(point: str) -> None:
    """Do what was ordered for this point, if anything was; who takes the file away is the one to do it."""
    order = _FOLDER / point
    taken = _FOLDER / f".taken-{os.getpid()}-{time.monotonic_ns()}"
    try:
        order.rename(taken)
    except FileNotFoundError:
        return
    action = taken.read_text()
    taken.unlink()
    if action == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "hang":
        time.sleep(_HANG_S)
    else:
        raise RuntimeError(f"failpoint {point}: {action}")


def _told_something(result: Any) -> bool:
    """Tell an answer worth dying for from that of a sweep that found nothing to do."""
    fields = getattr(type(result), "__dataclass_fields__", None)
    return any(getattr(result, name) for name in fields) if fields else result is None or bool(result)


def _wrapped(point: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def passing(*args: Any, **kwargs: Any) -> Any:
        _pass(f"{point} before")
        result = function(*args, **kwargs)
        if _told_something(result):
            _pass(f"{point} after")
        return result

    return passing


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the named modules as Python would, and wraps their functions once they are loaded."""

    def __init__(self, points: Sequence[str]) -> None:
        self._functions = defaultdict[str, list[str]](list)
        for point in points:
            module, _, function = point.partition(":")
            self._functions[module].append(function)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._functions:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_wrap(module: ModuleType) -> None:
                load(module)
                for name in self._functions[fullname]:
                    owner = functools.reduce(getattr, name.split(".")[:-1], module)
                    last = name.rpartition(".")[2]
                    setattr(owner, last, _wrapped(f"{fullname}:{name}", getattr(owner, last)))

            spec.loader.exec_module = load_and_wrap  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, _Finder(json.loads((_FOLDER / "functions.json").read_text())))
