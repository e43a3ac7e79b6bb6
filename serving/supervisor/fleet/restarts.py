"""Restarts: when a failed model may start again: never in a tight loop, and not for ever."""

from __future__ import annotations

from serving.supervisor.fleet.replica import CRASH_LIMIT, Action, GiveUp, Owner, Publish, Served

MAX_FAILURES = 5  # starts in a row that never became ready
BACKOFF = (0.0, 0.5, 1.0, 2.0, 4.0)  # seconds before the next start, by failures so far
CRASH_WINDOW, CRASH_DELAY = 10.0, 1.0  # seconds; after CRASH_LIMIT deaths in the window, starts wait for the delay


def count_failure(served: Served, reason: str, now: float, raised: bool = False) -> None:
    """Count a worker that ended before it was ready."""
    served.failures += 1
    served.refusals += raised
    if served.failures >= MAX_FAILURES:
        served.failed = f"failed to start {served.failures} times in a row; the last time: {reason}"
    else:
        served.next_start = now + BACKOFF[served.failures]


def is_hopeless(served: Served) -> bool:
    """Return whether a server's only model cannot be loaded: its load has raised an error again, in a second try."""
    return served.owner is Owner.START and not served.was_ready and served.refusals > served.model.replicas


def give_up(served: Served, why: str) -> list[Action]:
    """End a server whose only model can never be served; waiting requests get the reason."""
    served.failed = why
    return [Publish(served.name), GiveUp(why)]


def count_death(served: Served, now: float) -> None:
    """Count a worker that ended after it had been ready."""
    served.deaths.append(now)
    if not is_calm(served, now):
        served.next_start = now + CRASH_DELAY


def is_calm(served: Served, now: float) -> bool:
    return len(served.deaths) < CRASH_LIMIT or served.deaths[0] < now - CRASH_WINDOW
