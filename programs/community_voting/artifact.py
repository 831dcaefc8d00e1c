"""The built program: where it lies, what it is called, and proof that it was built from the source beside it.

`python -m programs.community_voting.artifact --check` compares every hash of manifest.json with the files; `--write` renews the manifest
after a build, with the compiler that was used, and generates idl_legacy.json: the same interface in the form from before Anchor 0.30,
which anchorpy reads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IDL_PATH = HERE / "idl.json"
SO_PATH = HERE / "community_voting.so"
LEGACY_IDL_PATH = HERE / "idl_legacy.json"
MANIFEST_PATH = HERE / "manifest.json"


def load_idl_json() -> dict[str, Any]:
    """The IDL as Anchor's own idl-build wrote it."""
    document: dict[str, Any] = json.loads(IDL_PATH.read_bytes())
    return document


PROGRAM_ID: str = load_idl_json()["address"]


def inputs() -> list[Path]:
    """Everything that the built program depends on."""
    return sorted([*HERE.glob("src/**/*.rs"), HERE / "Cargo.toml", HERE / "Cargo.lock"])


def hashes() -> dict[str, str]:
    """sha256 of every input and output, by path below this folder."""
    files = [*inputs(), SO_PATH, IDL_PATH, LEGACY_IDL_PATH]
    return {
        str(path.relative_to(HERE)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.is_file()
    }


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def _legacy_type(reference: Any) -> Any:
    """One type reference; raises ValueError for what the older format has no word for."""
    if isinstance(reference, str):
        return {"pubkey": "publicKey"}.get(reference, reference)
    ((kind, inner),) = reference.items()
    if kind == "defined" and "generics" not in inner:
        return {"defined": inner["name"]}
    if kind in ("option", "vec"):
        return {kind: _legacy_type(inner)}
    if kind == "array":
        return {"array": [_legacy_type(inner[0]), inner[1]]}
    raise ValueError(f"idl.json: type {reference} has no form in the older IDL")


def _legacy_fields(fields: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"name": _camel(field["name"]), "type": _legacy_type(field["type"])} for field in fields]


def legacy_idl(document: dict[str, Any]) -> dict[str, Any]:
    """The IDL in the form from before Anchor 0.30. Only types that this program uses are known: named structs and unit enums."""
    types: dict[str, dict[str, Any]] = {}
    for item in document["types"]:
        if item["type"]["kind"] == "enum":
            types[item["name"]] = {"kind": "enum", "variants": [{"name": v["name"]} for v in item["type"]["variants"]]}
        else:
            types[item["name"]] = {"kind": "struct", "fields": _legacy_fields(item["type"]["fields"])}
    accounts = [item["name"] for item in document["accounts"]]
    events = [item["name"] for item in document["events"]]
    return {
        "version": document["metadata"]["version"],
        "name": document["metadata"]["name"],
        "instructions": [
            {
                "name": _camel(instruction["name"]),
                "accounts": [
                    {
                        "name": _camel(account["name"]),
                        "isMut": account.get("writable", False),
                        "isSigner": account.get("signer", False),
                    }
                    for account in instruction["accounts"]
                ],
                "args": _legacy_fields(instruction["args"]),
            }
            for instruction in document["instructions"]
        ],
        "accounts": [{"name": name, "type": types[name]} for name in accounts],
        "types": [{"name": name, "type": types[name]} for name in types if name not in {*accounts, *events}],
        "events": [
            {"name": name, "fields": [{**field, "index": False} for field in types[name]["fields"]]} for name in events
        ],
        "errors": [{"code": e["code"], "name": e["name"], "msg": e["msg"]} for e in document["errors"]],
        "metadata": {"address": document["address"]},
    }


def _write(compiler: str) -> None:
    LEGACY_IDL_PATH.write_text(json.dumps(legacy_idl(load_idl_json()), indent=1) + "\n")
    MANIFEST_PATH.write_text(json.dumps({"compiler": compiler, "sha256": hashes()}, indent=2) + "\n")


def check() -> list[str]:
    """What differs from the manifest; empty when source and program belong together."""
    if not MANIFEST_PATH.is_file():
        return ["manifest.json is missing"]
    recorded: dict[str, str] = json.loads(MANIFEST_PATH.read_bytes())["sha256"]
    now = hashes()
    return [
        f"{name}: {'changed' if name in recorded and name in now else 'only in the manifest' if name in recorded else 'not in the manifest'}"
        for name in sorted(recorded.keys() | now.keys())
        if recorded.get(name) != now.get(name)
    ]


def main() -> int:
    """--check (default) or --write."""
    parser = argparse.ArgumentParser(description="Does the built program belong to the source beside it?")
    parser.add_argument("--check", action="store_true", help="exit 1 and name the files that differ (default)")
    parser.add_argument(
        "--write",
        metavar="COMPILER",
        nargs="?",
        const="",
        help="record the hashes, with the compiler that was used (default: as before)",
    )
    arguments = parser.parse_args()
    if arguments.write is not None:
        _write(arguments.write or json.loads(MANIFEST_PATH.read_bytes())["compiler"])
        return 0
    differences = check()
    for line in differences:
        print(f"programs/community_voting/{line}; build the program again and renew the manifest", file=sys.stderr)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
