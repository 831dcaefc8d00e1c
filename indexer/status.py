"""Where everything stands, read from the database alone: the document of `/status` and of `indexer status --json`."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from schema import db


def collect(dsn: str) -> dict[str, Any]:
    """One JSON-ready document. UserError when the database can't be reached or holds no ledger."""
    db.check_schema(dsn)
    with db.connect(dsn) as connection, connection.cursor(row_factory=dict_row) as cursor:

        def rows(query: str) -> list[dict[str, Any]]:
            return list(cursor.execute(query).fetchall())

        ledger = rows(
            "SELECT coalesce(max(position) FILTER (WHERE name = 'ledger'), 0) AS position, max(slot) FILTER (WHERE name = 'tip') AS tip_slot,"
            " max(slot) FILTER (WHERE name = 'root') AS finalized_slot FROM ledger.checkpoints"
        )[0]
        return {
            "programs": rows("SELECT * FROM events.freshness ORDER BY program"),
            "ledger": {
                **ledger,
                "seals": rows("SELECT count(*) AS n FROM ledger.seals")[0]["n"],
                "retractions": rows("SELECT count(*) AS n FROM ledger.retractions")[0]["n"],
                "late_rows": rows("SELECT count(*) AS n FROM ledger.transactions WHERE origin = 2")[0]["n"],
            },
            "idls": rows(
                "SELECT p.name AS program, i.slot_from, encode(i.sha256, 'hex') AS sha256, i.source, i.added_at,"
                " substring(i.source FROM 'deployed in ([0-9]+)$')::bigint AS deployed_slot FROM ledger.idls i"
                " JOIN ledger.programs p ON p.id = i.program ORDER BY p.name, i.added_at, i.slot_from"
            ),
            "deployments": rows(
                "SELECT substr(name, 10) AS program, slot, updated_at AS noticed_at FROM ledger.checkpoints"
                " WHERE name LIKE 'deployed:%' ORDER BY name"
            ),
            "projections": rows(
                "SELECT substr(name, 12) AS projection, position, slot, updated_at FROM ledger.checkpoints"
                " WHERE name LIKE 'projection:%%' ORDER BY name".replace("%%", "%")
            ),
            "dead_letters": rows(
                "SELECT projection, reason, count(*) AS parked FROM ledger.dead_letters WHERE resolved_at IS NULL GROUP BY 1, 2 ORDER BY 1, 2"
            ),
            # For which slot the account mirror was last compared with a full listing.
            "accounts": rows(
                "SELECT p.name AS program, c.slot FROM ledger.programs p LEFT JOIN ledger.checkpoints c ON c.name = 'accounts:' || p.id ORDER BY 1"
            ),
            "writer": next(
                iter(
                    rows(
                        "SELECT holder, epoch, renewed_at, expires_at > now() AS alive FROM ledger.leases WHERE name = 'writer'"
                    )
                ),
                None,
            ),
        }


def problems(document: dict[str, Any], lag_slots_max: int) -> list[str]:
    """What is wrong in a status document; empty when all is well."""
    found = [f"{d['parked']} dead letters in {d['projection']} ({d['reason']})" for d in document["dead_letters"]]
    for program in document["programs"]:
        lag = program["lag_slots"]
        if lag is not None and lag > lag_slots_max:
            found.append(f"{program['program']} is {lag} slots behind")
    writer = document["writer"]
    if writer is None or not writer["alive"]:
        found.append("no indexer is writing")
    return found
