"""A model chain with every fault of the network, driving the real core; an oracle says whether the ledger tells the truth."""
