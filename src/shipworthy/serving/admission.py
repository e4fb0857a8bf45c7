"""Admission control: who would have to wait too long is told so at once, so that those who are admitted need not.

What waits for a model is measured in the time that it will take, from what rows have taken lately. Single requests and
lists are counted apart: a list is work that somebody wants done, a queue of single requests is overload.
"""

QUEUE_ROWS = 6  # single requests that may be open however long each takes: with fewer the model would idle now and then
QUEUE_SHARE = 0.03  # of the deadline, which open single requests may take together
LIST_SHARE = 0.25  # of the deadline, which open rows of lists may take before another list is refused
MAX_OPEN_ROWS = 20_000  # two full lists, however fast they are
WEIGHT = 0.3  # of the last run in what runs take
SPIKE = 4.0  # a run that took more than so many times the usual is a hiccup, or the first of many: it counts as this


class Admission:
    """Counts what is open, and says whether more may come. For the event loop alone.

    >>> admission = Admission()
    >>> for _ in range(20):
    ...     admission.learn(rows=50, seconds=0.25, timeout_s=1.0)
    >>> sum(admission.admit(1) for _ in range(100))
    7
    """

    __slots__ = ("_expected_s", "_rows", "_seconds", "_timeout_s", "lists", "singles")

    def __init__(self) -> None:
        self.singles = 0  # open requests of one row
        self.lists = 0  # open rows of lists
        self._rows = 0.0  # of a run, smoothed
        self._seconds = 0.0  # that it takes, smoothed
        self._timeout_s = 1.0
        self._expected_s = 0.0  # that a row costs, until runs of several have shown it

    @property
    def open_rows(self) -> int:
        """All that is open."""
        return self.singles + self.lists

    @property
    def row_s(self) -> float:
        """What one more row costs: of runs of n rows, all but the n-th part, as that much is any run's; 0: unknown."""
        if self._rows <= 1.0:
            return self._expected_s
        return self._seconds / self._rows * (1.0 - 1.0 / self._rows)

    def admit(self, rows: int, *, is_list: bool = False) -> bool:
        """Take in so many rows, or none and say False."""
        if self.open_rows + rows > MAX_OPEN_ROWS:
            return False
        if is_list:
            if self.lists * self.row_s > LIST_SHARE * self._timeout_s:
                return False
            self.lists += rows
            return True
        if self.singles > QUEUE_ROWS and self.singles * self.row_s > QUEUE_SHARE * self._timeout_s:
            return False
        self.singles += rows
        return True

    def release(self, rows: int, *, is_list: bool = False) -> None:
        """So many rows are answered, or given back."""
        if is_list:
            self.lists -= rows
        else:
            self.singles -= rows

    def expect(self, row_s: float) -> None:
        """What a row costs of a release that was warmed just now."""
        self._expected_s = row_s

    def learn(self, *, rows: int, seconds: float, timeout_s: float) -> None:
        """A run has ended.

        Args:
            rows: that it had.
            seconds: from its beginning until its answers were on record.
            timeout_s: deadline of its rows.
        """
        if rows == 1 and self._rows > 1.0:
            return  # says nothing of one more row; what several cost is not forgotten in quiet hours
        usual = self._seconds or seconds
        self._seconds = usual + WEIGHT * (min(seconds, SPIKE * usual) - usual)
        self._rows += WEIGHT * (rows - self._rows)
        self._timeout_s = timeout_s
