"""Versions of the zoo's files: each file holds its own, and the error for an unreadable one says what to do.

When the form of a file changes, raise its ``version`` here; when older forms can no longer be read, raise ``oldest``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mbrl_wrappers
from mbrl_wrappers.zoo.errors import ZooError

UPDATE = (
    f"a newer release than {mbrl_wrappers.__version__} wrote it: update mbrl-wrappers (pip install -U mbrl-wrappers)"
)
RETRAIN = (
    "an older release wrote it: load it with that one (env.json names its version), or train the agent again by its "
    "recipe (mbrl-zoo train)"
)
REWRITE = "an older release wrote it: write it again with this one, or read it with that one"


@dataclass(frozen=True)
class FileFormat:
    """The form of one kind of file.

    Attributes:
        version: the version that is written.
        oldest: the oldest version that can still be read.
        advice: for the error, what to do about a file that is older still.
    """

    version: int = 1
    oldest: int = 1
    advice: str = REWRITE

    def check(self, content: dict[str, Any], source: object) -> None:
        """Refuse a file of another version, and say what to do.

        Args:
            content: the file's JSON object, with its ``format_version``.
            source: the file, for errors.

        Raises:
            ZooError: for a missing version, or one that can't be read.
        """
        found = content.get("format_version")
        if type(found) is int and self.oldest <= found <= self.version:
            return
        known = f"the format_version {self.version}"
        if self.oldest < self.version:
            known = f"a format_version from {self.oldest} to {self.version}"
        advice = ""
        if type(found) is int:
            advice = f"; {UPDATE if found > self.version else self.advice}"
        raise ZooError(f"{source} must have {known}, got {found!r}{advice}")


# The description of an agent together with its model; a change in either needs a new version.
AGENT = FileFormat(advice=RETRAIN)
MANIFEST = FileFormat(advice=RETRAIN)
EVALUATION = FileFormat(version=2, advice=RETRAIN)
DIAGNOSIS = FileFormat()
LADDER = FileFormat()
INDEX = FileFormat()
