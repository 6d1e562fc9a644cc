"""Versions of the zoo's files: each file holds its own, and the error for an unreadable one says what to do.

Who changes the form of a file raises its ``version`` here; who can no longer read the older forms raises ``oldest``.
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
        version: that is written.
        oldest: that can still be read.
        advice: what to do about an older one.
    """

    version: int = 1
    oldest: int = 1
    advice: str = REWRITE

    def check(self, content: dict[str, Any], source: object) -> None:
        """Refuse a file of another version, and say what to do.

        Args:
            content: the file's JSON object, with its ``format_version``.
            source: what errors call the file.

        Raises:
            ZooError: for a version that can't be read, or none.
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


# What an agent and its model are rebuilt from: of another version when the form of either changes.
AGENT = FileFormat(advice=RETRAIN)
MANIFEST = FileFormat(advice=RETRAIN)
EVALUATION = FileFormat(advice=RETRAIN)
DIAGNOSIS = FileFormat()
INDEX = FileFormat()
