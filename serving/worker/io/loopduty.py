"""Loop duty: which thread reads the sockets of HTTP workers, and when."""

from __future__ import annotations

from enum import Enum, auto


class LoopDuty(Enum):
    """What the loop's thread does about the sockets.

    duty            reads   checks on the engine   because the engine
    RESTING         no      no                     waits, and reads by itself
    CHECKING        no      yes                    is at work, but has read lately
    STANDING_IN     yes     yes                    has not read for a while, or large bodies arrive
    KEEPING_STILL   no      yes                    has not, but is launching kernels
    READING         yes     no                     is away, or takes no more requests
    """

    RESTING = auto()
    CHECKING = auto()
    STANDING_IN = auto()
    KEEPING_STILL = auto()
    READING = auto()


READS = (LoopDuty.STANDING_IN, LoopDuty.READING)
CHECKS = (LoopDuty.CHECKING, LoopDuty.STANDING_IN, LoopDuty.KEEPING_STILL)
