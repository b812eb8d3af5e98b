"""The root of every error that a user can mend.

Each class stands beside what raises it. What a caller of a function got wrong (a shape, an axis, a
value out of a function's range) is a ``ValueError`` as elsewhere in Python: a defect, whose
traceback is wanted.
"""

from __future__ import annotations


class OccError(Exception):
    """A wrong option, file, folder, name or recording; the message says what to do about it.

    Command lines print the message alone. Write it as one line: what is wrong, what was expected,
    what was got, for which file, camera or topic, and the next step.
    """
