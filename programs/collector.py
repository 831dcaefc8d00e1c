"""How often Python's cycle collector looks: once, for every process that streams rows, events or answers."""

from __future__ import annotations

import gc

# Objects made before it looks: a few batches' worth. A batch is some five thousand objects that hold no cycle and go with their last reference;
# Python's own 700 looks through each of them several times, which was an eighth of encoding rows and a quarter of folding events.
OBJECTS = 200_000


def collect_seldom() -> None:
    """Called once where such work begins; again is harmless."""
    gc.set_threshold(OBJECTS, 20, 100)


def keep_all() -> None:
    """The same, and what was made so far, modules above all, is never looked at again. For a process of its own."""
    gc.collect()
    gc.freeze()
    collect_seldom()
