"""Faults and remarks about an env, collected while `mbrl-zoo doctor` examines it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mbrl_wrappers.zoo.errors import raised


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
