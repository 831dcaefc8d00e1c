"""Samples of accounts: closes and changes of owner, which no subscription reports, and the slot for which the mirror holds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from indexer import accounts
from indexer.accounts import FROM_LISTING, AccountSampler
from indexer.core.protocol import Address, Failure, Slot
from indexer.edges.parse import AccountChange
from programs import base58

PROGRAM = Address("Vote111111111111111111111111111111111111111")
OURS = base58.address_bytes(PROGRAM)
OTHER = bytes(31) + b"\x07"
ONE, TWO = b"\x01" * 32, b"\x02" * 32


def account(key: bytes, data: bytes = b"x", slot: int = 50) -> AccountChange:
    return AccountChange(PROGRAM, Slot(slot), key, 5, OURS, data)


class Source:
    def __init__(self, listing: Any, owners: dict[bytes, Any] | None = None) -> None:
        self.listing, self.owners, self.asked = listing, owners or {}, []

    async def get_program_accounts(self, program: Address) -> Any:
        return self.listing

    async def get_owners(self, addresses: Any) -> Any:
        self.asked.extend(addresses)
        return Slot(50), [self.owners.get(base58.address_bytes(a)) for a in addresses]


class Sink:
    def __init__(self, known: dict[bytes, Any]) -> None:
        self.known, self.rows, self.slot = known, [], None
        self.refuses = False

    async def append_accounts(self, changes: Any, source: int) -> Failure | None:
        if self.refuses:
            return Failure("the database is down")
        self.rows.extend((change, source) for change in changes)
        return None

    async def latest_accounts(self, program: Address) -> Any:
        return self.known

    async def set_accounts_slot(self, program: Address, slot: Slot) -> None:
        self.slot = slot


def listed(source: Any, sink: Any) -> AccountSampler:
    sampler = AccountSampler((PROGRAM,), source, sink, 300.0)
    asyncio.run(sampler._list(PROGRAM))
    return sampler


def test_a_bootstrap_takes_everything_and_says_for_which_slot() -> None:
    sink = Sink({})
    listed(Source((Slot(50), [account(ONE), account(TWO)])), sink)
    assert [(change.pubkey, source) for change, source in sink.rows] == [(ONE, FROM_LISTING), (TWO, FROM_LISTING)]
    assert sink.slot == 50


def test_what_did_not_change_is_not_sampled_again() -> None:
    sink = Sink({ONE: (5, b"x", 40)})
    listed(Source((Slot(50), [account(ONE)])), sink)
    assert sink.rows == []
    assert sink.slot == 50


def test_a_closed_account_is_found() -> None:
    sink = Sink({ONE: (5, b"x", 40)})
    listed(Source((Slot(50), [])), sink)
    [(change, _)] = sink.rows
    assert (change.pubkey, change.closed, change.lamports, change.slot) == (ONE, True, 0, 50)


def test_a_change_of_owner_is_found_and_names_the_new_owner() -> None:
    sink = Sink({ONE: (5, b"x", 40)})
    listed(Source((Slot(50), []), {ONE: (9, OTHER)}), sink)
    [(change, _)] = sink.rows
    assert (change.closed, change.lamports, change.owner) == (True, 9, OTHER)


def test_an_account_that_the_listing_lacks_but_the_node_holds_stays_open() -> None:
    sink = Sink({ONE: (5, b"x", 40)})
    listed(Source((Slot(50), []), {ONE: (5, OURS)}), sink)
    assert sink.rows == []


def test_a_lower_node_does_not_close_what_was_made_since() -> None:
    sink = Sink({ONE: (5, b"x", 60)})
    source = Source((Slot(50), []))
    listed(source, sink)
    assert sink.rows == []
    assert source.asked == []


def test_nothing_is_said_to_hold_when_it_could_not_be_read_or_written() -> None:
    sink = Sink({ONE: (5, b"x", 40)})
    listed(Source(Failure("time-out")), sink)
    assert (sink.rows, sink.slot) == ([], None)
    sink.refuses = True
    sampler = listed(Source((Slot(50), [])), sink)
    assert sink.slot is None
    assert sampler._wanted, "it is tried again soon"


def test_the_queue_is_bounded_in_bytes_and_what_falls_out_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the database is down, twenty thousand accounts of ten megabytes each are not waited with."""
    monkeypatch.setattr(accounts, "QUEUE_BYTES_MAX", 1_000)
    sampler = AccountSampler((PROGRAM,), Source(None), Sink({}), 300.0)
    sampler._wanted = False
    for key in (ONE, TWO, OTHER):
        sampler.observe(account(key, bytes(400)))
    assert [key for _, key in sampler._queue] == [ONE, TWO]
    assert sampler._wanted
    sampler.observe(account(ONE, bytes(500)))
    sampler.observe(account(TWO, bytes(600)))
    assert [len(change.data or b"") for change in sampler._queue.values()] == [500, 400]
    asyncio.run(sampler._flush())
    sampler.observe(account(OTHER, bytes(900)))
    assert [key for _, key in sampler._queue] == [OTHER]


def test_the_queue_has_a_bound_and_what_falls_out_is_listed() -> None:
    sampler = AccountSampler((PROGRAM,), Source(None), Sink({}), 300.0)
    sampler._wanted = False
    for number in range(accounts.QUEUE_MAX + 5):
        sampler.observe(account(number.to_bytes(32, "big")))
    assert len(sampler._queue) == accounts.QUEUE_MAX
    assert sampler._wanted
