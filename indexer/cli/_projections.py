"""What the commands on the read models share: the programs as configured, and JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
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
    """One JSON document; times in ISO form, numbers exact."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)
