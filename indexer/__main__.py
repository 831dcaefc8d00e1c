"""`python -m indexer`."""

import sys

try:
    from indexer.cli.main import entry

    entry()
except KeyboardInterrupt:
    # While the modules are still being read; what a command does with it is in `main`.
    sys.exit(130)
