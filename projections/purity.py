"""Whether a handler is pure, as far as its code tells: no clock, no randomness, no I/O, nothing remembered between events."""

from __future__ import annotations

import dis
import uuid
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

# fmt: off
_MODULES = frozenset({
    "asyncio", "glob", "http", "httpx", "io", "logging", "multiprocessing", "os", "pathlib", "posix", "psycopg", "queue", "random",
    "requests", "secrets", "select", "shutil", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
    "urllib", "uuid", "websockets",
})
# fmt: on
_BUILTINS = frozenset({"open", "print", "input", "eval", "exec", "__import__", "globals", "id", "hash", "breakpoint"})
# Of these modules what has neither clock nor chance: a column of UUIDs takes nothing else.
_PURE = (uuid.UUID, uuid.uuid3, uuid.uuid5)
# Methods that ask a clock, whatever class they are taken from.
_CLOCKS = frozenset({"now", "utcnow", "today"})
_HELPERS_MAX = 200


def impurity(handler: Any) -> str | None:
    """What is impure in the function, in nested functions and in the helpers that it calls by name; None when nothing is seen."""
    if not isinstance(handler, FunctionType):
        return None if callable(handler) else "is no function"
    seen: set[FunctionType] = set()
    waiting = [handler]
    while waiting and len(seen) < _HELPERS_MAX:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        found = _of_code(function.__code__, function, waiting)
        if found is not None:
            return found if function is handler else f"calls {function.__name__}, which {found}"
    return None


def _of_code(code: CodeType, function: FunctionType, waiting: list[FunctionType]) -> str | None:
    for step in dis.get_instructions(code):
        name = step.argval
        if step.opname == "IMPORT_NAME":
            if str(name).split(".")[0] in _MODULES:
                return f"uses {name}"
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            return f"changes the global {name}, which no rebuild knows of"
        elif step.opname == "STORE_DEREF" and name in code.co_freevars and name in function.__code__.co_freevars:
            return f"remembers {name} between events"
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF"):
            found = _of_name(str(name), function, waiting)
            if found is not None:
                return found
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD") and name in _CLOCKS:
            return f"asks a clock ({name})"
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found = _of_code(constant, function, waiting)
            if found is not None:
                return found
    return None


def _of_name(name: str, function: FunctionType, waiting: list[FunctionType]) -> str | None:
    value = function.__globals__.get(name, _closed_over(function).get(name))
    if value is None:
        return f"uses {name}" if name in _BUILTINS else None
    if _home(value) in _MODULES:
        return None if any(value is pure for pure in _PURE) else f"uses {name}"
    # Helpers of the projection's own package are read too; what a library does is its own affair.
    package = function.__module__.split(".")[0] if function.__module__ else ""
    if isinstance(value, FunctionType) and (value.__module__ or "").split(".")[0] == package:
        waiting.append(value)
    return None


def _home(value: Any) -> str:
    """The top-level module that a module, function, method or class is from; '' for plain values."""
    if isinstance(value, ModuleType):
        return value.__name__.split(".")[0]
    if not isinstance(value, BuiltinFunctionType | FunctionType | MethodType | type):
        return ""
    # `random.random` is a method of a hidden object and knows no module itself.
    module = getattr(value, "__module__", None) or type(getattr(value, "__self__", None)).__module__
    return str(module).split(".")[0]


def _closed_over(function: FunctionType) -> dict[str, Any]:
    cells = function.__closure__ or ()
    found = {}
    for name, cell in zip(function.__code__.co_freevars, cells, strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found
