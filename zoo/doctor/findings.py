"""Faults and remarks about an env, collected while `mbrl-zoo doctor` examines it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        topic: what it is about: ``"observations"``, ``"actions"``, ``"rewards"``, ``"episodes"``, ``"seeds"``,
            ``"rendering"``, ``"model"``, ``"given"`` or ``"agents"``.
        says: what is wrong, with a value that was seen, and what to do.
        is_fault: whether an agent would fail or learn something wrong; otherwise it is worth knowing.
    """

    topic: str
    says: str
    is_fault: bool = True


class Findings(list[Finding]):
    """Findings in the order in which they were made, each once."""

    def fault(self, topic: str, says: str) -> None:
        """Add a fault."""
        self._add(Finding(topic, says))

    def remark(self, topic: str, says: str) -> None:
        """Add something that is worth knowing."""
        self._add(Finding(topic, says, is_fault=False))

    def _add(self, finding: Finding) -> None:
        if finding not in self:
            self.append(finding)

    @property
    def faults(self) -> list[Finding]:
        """Those that are faults."""
        return [finding for finding in self if finding.is_fault]

    @contextmanager
    def catching(self, topic: str, when: str) -> Iterator[None]:
        """Turn any error of the env's code into a fault that names its line."""
        try:
            yield
        except Exception as error:  # code of somebody else's may raise anything
            self.fault(topic, f"{when} {raised(error)}")


def raised(error: Exception) -> str:
    """Return what somebody's code did: raise an error, of which kind, where, and saying what."""
    return f"raises {type(error).__name__}{_place(error)}: {short(error)}"


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f" in line {frames[-1].lineno} of {frames[-1].filename}" if frames else ""


def short(error: Exception) -> str:
    """Return an error's message in one line that is not too long."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]}…"
