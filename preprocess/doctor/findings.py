"""What was found: counted without end, kept up to a limit, so that memory does not grow with a dataset's faults."""

from dataclasses import asdict, dataclass, field
from typing import Literal

from preprocess.doctor.checks import CHECKS, Severity

KEPT = 100
"""Findings of one check that are kept with their text; the others are counted."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is not as it should be."""

    check: str
    """A key of CHECKS."""
    severity: Severity
    dataset: str
    where: str
    """A sample's key with its place, a file, a segment or a clip."""
    what: str
    what_to_do: str


@dataclass
class Tally:
    """How often one check looked and what it found."""

    looked_at: int = 0
    found: int = 0


@dataclass
class Findings:
    """All findings of a run, by check."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in CHECKS})
    kept: dict[str, list[Finding]] = field(default_factory=lambda: {name: [] for name in CHECKS})

    def looked(self, check: str, count: int = 1) -> None:
        """Counts what `check` looked at."""
        self.tallies[check].looked_at += count

    def add(self, check: str, dataset: str, where: str, what: str) -> None:
        """Counts a finding, and keeps it if there are not too many of its check."""
        self.tallies[check].found += 1
        if len(self.kept[check]) < KEPT:
            severity, _, _, what_to_do = CHECKS[check]
            found = Finding(
                check=check, severity=severity, dataset=dataset, where=where, what=what, what_to_do=what_to_do
            )
            self.kept[check].append(found)

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity, kept or not."""
        return sum(tally.found for name, tally in self.tallies.items() if CHECKS[name].severity == severity)

    def listed(self) -> list[Finding]:
        """The kept findings, errors first, then in the order of CHECKS."""
        order: tuple[Literal["error"], Literal["warning"]] = ("error", "warning")
        return [
            finding
            for severity in order
            for name, check in CHECKS.items()
            if check.severity == severity
            for finding in self.kept[name]
        ]

    def unlisted(self) -> dict[str, int]:
        """By check, how many findings were only counted."""
        counts = {name: tally.found - len(self.kept[name]) for name, tally in self.tallies.items()}
        return {name: count for name, count in counts.items() if count}

    def to_json(self) -> dict[str, object]:
        """Everything, for a program to read."""
        checks = [
            {"check": name, "severity": CHECKS[name].severity, "wanted": CHECKS[name].wanted, **asdict(tally)}
            for name, tally in self.tallies.items()
        ]
        return {
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "checks": checks,
            "findings": [asdict(finding) for finding in self.listed()],
            "findings_only_counted": self.unlisted(),
        }
