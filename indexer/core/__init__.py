"""Decisions without I/O. Each class takes replies and says what to ask or do next; the edges perform it, the simulator plays it."""
