"""What every part of the project raises for bad input."""


class InputError(ValueError):
    """The user gave something that cannot work. The message is one sentence that names the culprit and the remedy.

    Command lines print it alone, without a traceback, and exit with code 2.
    """
