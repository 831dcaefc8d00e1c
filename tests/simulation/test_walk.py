"""A page must show by itself that it continues the list: behind a balancer the next node may be on another fork."""

from __future__ import annotations

import pytest

from indexer.core.protocol import Address, Listed, ListSignatures, Slot
from indexer.core.walk import SignatureWalk, WalkBroken

PROGRAM = Address("Program")
ENTRIES = [Listed(f"sig{slot}", Slot(slot), 0, None) for slot in range(9, 0, -1)]


def page(request: ListSignatures) -> tuple[Listed, ...]:
    """A node that knows the list."""
    names = [entry.signature for entry in ENTRIES]
    start = names.index(request.before) + 1 if request.before is not None else 0
    return tuple(ENTRIES[start : start + request.limit])


def descend(answers: dict[int, tuple[Listed, ...]]) -> list[ListSignatures]:
    """Walk down; `answers` replaces the replies to some pages, counted from 0."""
    walk = SignatureWalk(PROGRAM, Slot(0), Slot(9), "confirmed", page_hint=4)
    routine, asked = walk.descend(), []
    request = next(routine)
    while True:
        assert isinstance(request, ListSignatures)
        asked.append(request)
        try:
            request = routine.send(answers.get(len(asked) - 1, page(request)))
        except StopIteration:
            return asked


def test_pages_overlap_by_one_entry() -> None:
    asked = descend({})
    # The last page holds nothing but the entry it began with: that shows the end. A short page alone would not.
    assert [request.before for request in asked] == [None, "sig7", "sig2"]


@pytest.mark.parametrize("reply", [(), tuple(ENTRIES[:4]), tuple(ENTRIES[4:])], ids=["empty", "newest", "a hole"])
def test_a_page_that_does_not_begin_with_the_last_entry_breaks_the_walk(reply: tuple[Listed, ...]) -> None:
    with pytest.raises(WalkBroken):
        descend({1: reply})


def test_a_list_that_ends_there_is_shown_to_end() -> None:
    assert len(descend({1: (ENTRIES[3],)})) == 2
