"""A model chain with every fault of the network, driving the real core; an oracle says whether the ledger tells the truth.

`dice` decides which fault strikes, `chain` is the truth, `node` tells it (honestly or not), `ledger` is a model of the database that a test
holds against the real one, `oracle` judges each commit and the end, `run` plays a history, `shrink` makes a failing one short.
"""
