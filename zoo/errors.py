"""The zoo's own error, and errors of other people's code in a line."""

import traceback


class ZooError(ValueError):
    """A problem with a name, folder, file or server of the zoo; the message names it and says what is wrong."""


def raised(error: BaseException) -> str:
    """Return what somebody's code did: raise an error, of which kind, where, and saying what."""
    return f"raises {type(error).__name__}{_place(error)}: {short(error)}"


def _place(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_frozen(frame)]
    is_named = isinstance(error, SyntaxError) or not frames  # the message of a SyntaxError has its file and line
    return "" if is_named else f" in line {frames[-1].lineno} of {frames[-1].filename}"


def is_frozen(frame: traceback.FrameSummary) -> bool:
    """Tell whether a frame is one of Python's own import system."""
    return frame.filename.startswith("<frozen ")


def short(error: BaseException) -> str:
    """Return an error's message in one line that is not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"
