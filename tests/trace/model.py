"""What a cache may answer for one key, given how every SET of it ended. Pure: no sockets, times are handed in.

One caller works on a key at a time, so the order of its operations is known; what is not known is whether a SET without
an answer took effect, and when. It may do so until `SETTLED_S` after it was sent, the request's deadline and a good deal
more; until then it stays possible, beside whatever else was written.

    sent ......... done                 a SET with TTL t that was acknowledged at `done`
     |              |
     sent + t - EARLY_S                 a miss is wrong before this
                    done + t + LATE_S   a hit is wrong after this

A value that was refused as *not applied* is never possible. A key that was seen expired does not come back.
"""

from dataclasses import dataclass

# The clocks of client and group may differ in rate, and a new leader's may lag a little.
EARLY_S = 0.1
# Expiry is an entry in the log: it may be late, more so while the machine is busy.
LATE_S = 1.0
# Past this a SET without an answer has taken effect or never will: twice the server's request_timeout.
SETTLED_S = 10.0


class Violation(Exception):
    """An answer that no order of events explains."""


@dataclass(frozen=True)
class Write:
    value: bytes
    ttl: float
    sent: float
    done: float
    certain: bool

    def surely_alive(self, now):
        return now < self.sent + self.ttl - EARLY_S

    def surely_dead(self, now):
        taken_effect_by = self.done if self.certain else self.sent + SETTLED_S
        return now > taken_effect_by + self.ttl + LATE_S

    def may_still_come(self, now):
        return not self.certain and now < self.sent + SETTLED_S


class Key:
    """The writes of one key that may be the present one."""

    def __init__(self):
        self.possible = []

    def _settle(self, now, *present):
        self.possible = [*present, *(w for w in self.possible if w.may_still_come(now) and w not in present)]

    def acknowledged(self, write):
        self._settle(write.sent, write)

    def uncertain(self, write):
        self.possible.append(write)

    def hit(self, value, sent, received):
        """A read, sent and answered at these times, saw the value."""
        write = next((w for w in self.possible if w.value == value), None)
        if write is None:
            raise Violation(f"read {value[:40]!r}, possible was {[w.value[:40] for w in self.possible]}")
        if write.surely_dead(sent):
            raise Violation(f"read {value[:40]!r} {sent - write.done:.2f} s after it was set with {write.ttl} s to live")
        self._settle(sent, write)

    def miss(self, sent, received):
        if any(w.certain for w in self.possible) and all(w.surely_alive(received) for w in self.possible):
            lost = next(w for w in self.possible if w.certain)
            raise Violation(f"{lost.value[:40]!r} is gone {received - lost.done:.2f} s after it was set with {lost.ttl} s to live")
        self._settle(sent)
