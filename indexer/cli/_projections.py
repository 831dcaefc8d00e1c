"""What the commands on the read models share: the programs as configured, and JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from datetime import datetime
from decimal import Decimal
from typing import Any


def prepared(args: argparse.Namespace) -> tuple[Any, tuple[Any, ...]]:
    """The settings and the programs' specifications. UserError as `startup.prepare`; nothing is migrated, no node is asked."""
    from indexer import settings, startup

    loaded = settings.load(args.config)
    ready = asyncio.run(startup.prepare(loaded, migrate=False, node=False))
    return loaded, ready.specs


def document(value: Any) -> str:
    """One JSON document; times in ISO form, numbers exact, bytes as hex. What JSON has no number for is the text that events have there ("NaN")."""
    try:
        return json.dumps(value, default=_plain, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
