"""A Solana node for development and tests: the real virtual machine behind JSON-RPC and PubSub, with a cluster's faults on demand."""

from programs.devnode.config import DevNodeConfig
from programs.devnode.node import DevNode

__all__ = ["DevNode", "DevNodeConfig"]
