"""Rows: the scoreboard's rows, each lent to one process at a time."""

from __future__ import annotations

from collections import deque

from serving.ipc.scoreboard import ROWS, Row, Scoreboard


class Rows:
    """The free rows. A returned row is lent again last, so that the state of a dead worker stays readable for a
    while.
    """

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._free = deque(range(ROWS))
        self._epoch = 0

    def __len__(self) -> int:
        """Return the number of free rows."""
        return len(self._free)

    def claim(self) -> tuple[Row, int]:
        """Return a row, and the epoch that distinguishes its new owner from earlier ones."""
        self._epoch += 1
        row = self._board.row(self._free.popleft())
        row.claim(self._epoch)
        return row, self._epoch

    def give_back(self, row: Row) -> None:
        row.pid = 0
        self._free.append(row.index)
