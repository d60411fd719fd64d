"""What every part of the project raises for bad input, and what is none."""

import errno

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


def is_of_the_machine(error: BaseException) -> bool:
    """Whether memory or disk ran out or failed, which no other input would mend."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _OF_THE_MACHINE)
