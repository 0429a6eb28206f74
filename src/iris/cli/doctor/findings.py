"""The findings of `iris doctor`, and how they are shown."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class Status(enum.StrEnum):
    """How good or bad a finding is."""

    OK = "ok"
    UNKNOWN = "unknown"  # UNKNOWN: the check could not be made, or the finding needs no change.
    WARNING = "warning"  # WARNING: the cluster works, but should be changed.
    PROBLEM = "problem"  # PROBLEM: a part of the cluster does not work.


_MARKS = {Status.OK: "ok", Status.UNKNOWN: "?", Status.WARNING: "warn", Status.PROBLEM: "FAIL"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found.

    Attributes:
        check: The name of the check, which programs can rely on, for example "clock".
        subject: What was checked, for example "controller" or "worker local-0".
        status: How good or bad the finding is.
        text: The finding as text for people.
        advice: What a person can do about the finding. An empty string if nothing needs to be done.
    """

    check: str
    subject: str
    status: Status
    text: str
    advice: str = ""

    def to_document(self) -> dict[str, str]:
        """Return the finding as a JSON object."""
        return {
            "check": self.check,
            "subject": self.subject,
            "status": self.status.value,
            "text": self.text,
            "advice": self.advice,
        }


def has_problem(findings: Iterable[Finding]) -> bool:
    """Return whether one of the findings is a problem."""
    return any(finding.status is Status.PROBLEM for finding in findings)


def findings_document(findings: Iterable[Finding]) -> dict[str, Any]:
    """Return the findings as a JSON object."""
    found = list(findings)
    return {"ok": not has_problem(found), "findings": [finding.to_document() for finding in found]}


def findings_text(findings: Iterable[Finding]) -> str:
    """Return the findings as lines, each with its advice below. Good findings about one subject share a line if they
    follow each other.
    """
    lines: list[str] = []
    for (status, subject), group in itertools.groupby(findings, key=lambda finding: (finding.status, finding.subject)):
        beginning = f"{_MARKS[status]:<5} {subject}: "
        if status is Status.OK:
            lines.append(beginning + "; ".join(finding.text for finding in group))
            continue
        for finding in group:
            lines.append(beginning + finding.text)
            if finding.advice:
                lines.append(f"      → {finding.advice}")
    return "\n".join(lines)
