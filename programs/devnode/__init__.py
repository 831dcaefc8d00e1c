"""A Solana node for development: the real virtual machine behind JSON-RPC and PubSub, with every fault of a real cluster on demand."""

from programs.devnode.config import DevNodeConfig
from programs.devnode.node import DevNode
from programs.devnode.threaded import RunningNode, devnode

__all__ = ["DevNode", "DevNodeConfig", "RunningNode", "devnode"]
