"""A seeded population of wallets that uses every instruction of the voting program, at a given rate, against any Solana node."""

from programs.crowd.crowd import Crowd, Result

__all__ = ["Crowd", "Result"]
