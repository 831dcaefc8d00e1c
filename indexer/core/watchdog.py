"""When to give up a socket that looks alive. Plain decisions over times that are handed in (seconds of a monotonic clock)."""

from __future__ import annotations

from dataclasses import dataclass

# A slot takes 0.4 s and the slot subscription names each: ten seconds of silence are no pause of the chain.
SILENCE_S_MAX = 10.0
# Rounds in a row in which HTTP found transactions and the socket had named none of them.
UNWITNESSED_ROUNDS_MAX = 3
# A tip that stands still this long is reported; the chain may halt, the socket is not to blame.
TIP_STILL_S_MAX = 60.0
# After this long another endpoint is asked first, if there is one; again after as long.
TIP_STILL_S_ELSEWHERE = 20.0


@dataclass(slots=True)
class Watchdog:
    """Feed it what happens; ask `verdict` now and then. A verdict names the reason to reconnect, or is None."""

    silence_s_max: float = SILENCE_S_MAX
    unwitnessed_rounds_max: int = UNWITNESSED_ROUNDS_MAX
    _frame_at: float | None = None
    _unwitnessed: int = 0
    _tip: int = -1
    _tip_at: float | None = None
    _moved_at: float = float("-inf")
    _heartbeat: bool = True

    def connected(self, now_s: float, heartbeat: bool = True) -> None:
        """The socket is subscribed. Without a `heartbeat`, the slot subscription, silence means nothing."""
        self._frame_at = now_s
        self._unwitnessed = 0
        self._heartbeat = heartbeat

    def disconnected(self) -> None:
        """The socket is gone; nothing is expected of it."""
        self._frame_at = None

    def frame(self, now_s: float) -> None:
        """Any frame came in."""
        self._frame_at = now_s

    def sealed(self, rows: int, witnessed: int) -> None:
        """A round appended `rows` transactions, of which the socket had named `witnessed`."""
        if witnessed:
            self._unwitnessed = 0
        elif rows:
            self._unwitnessed += 1

    def tip(self, slot: int, now_s: float) -> None:
        """HTTP named this tip."""
        if slot > self._tip:
            self._tip, self._tip_at = slot, now_s

    def tip_stands_still(self, now_s: float) -> float | None:
        """Seconds since the tip last moved, once that is long enough to worry."""
        if self._tip_at is None or now_s - self._tip_at < TIP_STILL_S_MAX:
            return None
        return now_s - self._tip_at

    def look_elsewhere(self, now_s: float) -> bool:
        """Whether the tip has stood still for so long that another endpoint should be asked. True once in TIP_STILL_S_ELSEWHERE."""
        if self._tip_at is None or now_s - max(self._tip_at, self._moved_at) < TIP_STILL_S_ELSEWHERE:
            return False
        self._moved_at = now_s
        return True

    def verdict(self, now_s: float) -> str | None:
        """Why the connection should be given up, if it should: "silent" or "subscription_dead"."""
        if self._frame_at is None:
            return None
        if self._heartbeat and now_s - self._frame_at > self.silence_s_max:
            return "silent"
        if self._unwitnessed >= self.unwitnessed_rounds_max:
            return "subscription_dead"
        return None
