"""The use of each case of the parametrised tests: ``python -m tests.mutants --families``.

A case that notices no fault of its own is kept only if it is a row of a document: of a
specification or a provider's page, of a table in the docs, of the settings, or a recording of the
corpus.  Of a product of two lists each member is kept with one member of the other list.

Imported by ``__main__``, and by pytest as the plugin that logs the cases that failed.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from .faults import Fault

if TYPE_CHECKING:
    import pytest

LOG = "families.log"
#: A test may change the folder.
_HERE = Path.cwd()


class Families:
    """The cases of each parametrised test, and the faults that made them fail."""

    def __init__(self) -> None:
        self._failed: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))

    def arguments(self, fault: Fault, folder: Path) -> list[str]:
        """Return pytest's arguments: every case of the files that *fault* names, to the end."""
        (folder / LOG).unlink(missing_ok=True)
        files = [word.partition("::")[0] for word in fault.tests if word.startswith("tests/")]
        return ["-p", "tests.mutants.families", *dict.fromkeys(files)]

    def read(self, fault: Fault, folder: Path) -> None:
        """Read the plugin's log of the tests with *fault* planted in *folder*."""
        log = folder / LOG
        for line in log.read_text("utf-8").splitlines() if log.exists() else ():
            outcome, _, case = line.partition(" ")
            faults = self._failed[case.partition("[")[0]][case]
            if outcome == "failed":
                faults.add(str(fault))

    def table(self, details: bool) -> str:
        """Return a row for each family: its cases, those that failed, and those that are enough.

        "Enough" is the number of cases that together notice all faults that the family notices.
        With *details* the cases that no fault made fail are listed below.
        """
        lines = ["cases  fail  enough  family"]
        for family, cases in sorted(self._failed.items()):
            remaining = set().union(*cases.values())
            fail = sum(map(bool, cases.values()))
            enough = 0
            while remaining:
                remaining -= max(cases.values(), key=lambda faults: len(faults & remaining))
                enough += 1
            lines.append(f"{len(cases):5}{fail:6}{enough:8}  {family}")
            if details:
                lines += [f"{'':21}never {case}" for case, faults in cases.items() if not faults]
        return "\n".join(lines)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep only the cases of parametrised tests, and log them."""
    items[:] = [item for item in items if hasattr(item, "callspec")]
    _write([f"ran {item.nodeid}" for item in items])


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Log a failure at once: a later case may hang."""
    if report.failed:
        _write([f"failed {report.nodeid}"])


def _write(lines: list[str]) -> None:
    with (_HERE / LOG).open("a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
