"""One row on its way to an answer."""

from collections.abc import Callable

import msgspec

from shipworthy.serving.answer import Answer
from shipworthy.serving.decode import Sample
from shipworthy.serving.problem import Problem
from shipworthy.serving.servable import Servable

Outcome = Answer | Problem


class Job(msgspec.Struct, eq=False):
    """A row, who answers it, and whom the answer is told."""

    servable: Servable
    sample: Sample
    arrived: float  # monotonic seconds
    deliver: Callable[[Outcome], None]  # called once, in the loop
    is_list: bool = False  # one row of a list
    claimed: bool = False  # by the model thread or the deadline, under the lock
    answered: bool = False  # only the loop touches it
