"""URLs of endpoints as they may be shown: a path, a query, a user part of a provider's URL is a key."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

SHOWN_MAX = 200
# A shorter piece of a URL ("v2", "rpc", "mainnet") is no key, and its letters would be cut out of honest words.
KEY_MIN = 8
PASSWORD_MIN = 4


def shown(url: str) -> str:
    """Scheme, host and port only."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or '?'}{port}"


def scrubbed(text: str, url: str) -> str:
    """A foreign message without what of our URL may be a key: the URL, its path, query and user part, whole or piece by piece. At most SHOWN_MAX
    characters."""
    parts = urlsplit(url)
    text = text.replace(url, shown(url))
    user = parts.netloc.rpartition("@")[0]
    whole = [parts.path, parts.query, parts.fragment, parts.netloc if user else "", user]
    values = [piece.rpartition("=")[2] for piece in parts.query.split("&")]
    pieces = [*parts.path.split("/"), *values, parts.username or "", parts.fragment]
    secrets = {secret for secret in whole if secret not in ("", "/")}
    secrets.update(piece for piece in pieces if len(piece) >= KEY_MIN)
    if parts.password and len(parts.password) >= PASSWORD_MIN:
        secrets.add(parts.password)
    secrets |= {unquote(secret) for secret in secrets}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "…")
    return text[:SHOWN_MAX]
