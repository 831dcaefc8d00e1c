"""Discriminators of the IDL against those that anchorpy computes from the names, all of them."""

from __future__ import annotations

from anchorpy.coder.accounts import _account_discriminator
from anchorpy.coder.common import _sighash
from anchorpy.coder.event import _event_discriminator

from programs.community_voting import artifact


def test_every_discriminator_is_the_one_anchorpy_computes() -> None:
    idl = artifact.load_idl_json()
    assert len(idl["instructions"]) == 21
    for kind, computed in (
        ("instructions", _sighash),
        ("accounts", _account_discriminator),
        ("events", _event_discriminator),
    ):
        for entry in idl[kind]:
            assert bytes(entry["discriminator"]) == computed(entry["name"]), f"{kind}.{entry['name']}"
