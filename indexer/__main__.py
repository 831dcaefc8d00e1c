"""`python -m indexer`."""

from indexer.cli.main import entry

entry()
