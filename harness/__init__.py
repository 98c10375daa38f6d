"""The library: what a run is made of. It knows no task by name and imports neither `launch` nor `tasks`."""


class UserError(Exception):
    """Something that a user typed, or a data file holds, cannot be used.

    The message is one line: what is wrong, where (file:line or flag), what to do. `launch` prints it without a
    traceback and exits with status 2.
    """
