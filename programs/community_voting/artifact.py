"""The built program: where it lies, what it is called, and proof that it was built from the source beside it.

`python -m programs.community_voting.artifact --check` compares every hash of manifest.json with the files; `--write` renews the manifest
after a build, with the compiler that was used.
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
    files = [*inputs(), SO_PATH, IDL_PATH]
    return {str(path.relative_to(HERE)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


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
    parser.add_argument("--write", metavar="COMPILER", help="record the hashes, with the compiler that was used")
    arguments = parser.parse_args()
    if arguments.write:
        MANIFEST_PATH.write_text(json.dumps({"compiler": arguments.write, "sha256": hashes()}, indent=2) + "\n")
        return 0
    differences = check()
    for line in differences:
        print(f"programs/community_voting/{line}; build the program again and renew the manifest", file=sys.stderr)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
