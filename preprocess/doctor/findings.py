"""Findings of checks: all are counted and only the first are kept, so that memory does not grow with the faults."""

from dataclasses import asdict, dataclass, field
from typing import Literal

from preprocess.doctor.checks import CHECKS, Severity

KEPT = 100
"""Number of findings per check that are kept with their text; others are only counted."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault in a dataset."""

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
    """Number of items that one check looked at, and of its findings."""

    looked_at: int = 0
    found: int = 0


@dataclass
class Findings:
    """Findings of a run, by check."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {name: Tally() for name in CHECKS})
    kept: dict[str, list[Finding]] = field(default_factory=lambda: {name: [] for name in CHECKS})

    def looked(self, check: str, count: int = 1) -> None:
        """Counts items that `check` looked at."""
        self.tallies[check].looked_at += count

    def add(self, check: str, dataset: str, where: str, what: str) -> None:
        """Counts a finding, and keeps it if fewer than KEPT of its check are kept."""
        self.tallies[check].found += 1
        if len(self.kept[check]) < KEPT:
            severity, _, _, what_to_do = CHECKS[check]
            found = Finding(
                check=check, severity=severity, dataset=dataset, where=where, what=what, what_to_do=what_to_do
            )
            self.kept[check].append(found)

    def count(self, severity: Severity) -> int:
        """Number of findings of this severity, kept or not."""
        return sum(tally.found for name, tally in self.tallies.items() if CHECKS[name].severity == severity)

    def listed(self) -> list[Finding]:
        """Kept findings, errors first, then in the order of CHECKS."""
        order: tuple[Literal["error"], Literal["warning"]] = ("error", "warning")
        return [
            finding
            for severity in order
            for name, check in CHECKS.items()
            if check.severity == severity
            for finding in self.kept[name]
        ]

    def unlisted(self) -> dict[str, int]:
        """Number of findings by check that were only counted."""
        counts = {name: tally.found - len(self.kept[name]) for name, tally in self.tallies.items()}
        return {name: count for name, count in counts.items() if count}

    def to_json(self) -> dict[str, object]:
        """Counts and kept findings, as JSON for other programs."""
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
