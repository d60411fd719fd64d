"""What every part of the project raises for bad input, and what is none."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_OF_THE_MACHINE = {errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}


class InputError(ValueError):
    """The user gave something that cannot work. The message is one sentence that names the culprit and the remedy.

    Command lines print it alone, without a traceback, and exit with code 2.
    """


class SettingError(InputError):
    """One setting cannot work. The message begins with the setting's name; a command line puts its own option there.

    Args:
        name: the field that holds the setting, such as "batch_size".
        problem: the rest of the sentence, such as "must be at least 1, not 0".
    """

    def __init__(self, name: str, problem: str) -> None:
        self.name, self.problem = name, problem
        super().__init__(f"{name} {problem}")


@contextmanager
def explained(explain: Callable[[Exception], InputError | None], *kinds: type[Exception]) -> Iterator[None]:
    """Turn what a block raises about its input into words. InputError, and what memory or the disk fail at, pass unchanged.

    Args:
        explain: makes the error, or says None where an exception is not about the input; it then passes unchanged, too.
        kinds: of exceptions that may be about the input.

    Raises:
        InputError: what `explain` made.
    """
    try:
        yield
    except InputError:
        raise
    except kinds as error:
        explanation = None if _is_of_the_machine(error) else explain(error)
        if explanation is None:
            raise
        raise explanation from error


def _is_of_the_machine(error: Exception) -> bool:
    """Whether memory or disk ran out or failed, which no other input would mend."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE)
