"""Reads the planted faults from this folder's ``*.txt`` files."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass
class Fault:
    """A change to *file* that the *tests* must notice; *why* describes the fault."""

    file: str
    tests: list[str]
    why: str = ""
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.file}: {self.why}"

    def planted_in(self, text: str) -> str:
        """Return the file's *text* with the fault; raises ValueError if it does not fit."""
        old = "".join(line + "\n" for line in self.old)
        found = ("\n" + text).count("\n" + old)
        if not self.old or found != 1:
            raise ValueError(f"{self}: the lines to change occur {found} times")
        new = "".join(line + "\n" for line in self.new)
        return ("\n" + text).replace("\n" + old, "\n" + new)[1:]


def read_faults() -> list[Fault]:
    """Return the faults of all files, in order; raises ValueError for an invalid line."""
    faults: list[Fault] = []
    for path in sorted(HERE.glob("*.txt")):
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            if line.startswith("== "):
                file, bar, tests = line[3:].partition("|")
                if not bar:
                    raise ValueError(f"{path.name}:{number}: no tests are named")
                faults.append(Fault(file.strip(), shlex.split(tests)))
            elif line.startswith("# ") and faults and not faults[-1].old:
                faults[-1].why += line[2:]
            elif line[:1] in ("-", "+") and faults:
                lines = faults[-1].old if line[0] == "-" else faults[-1].new
                lines.append(line[2:] if line[1:2] == " " else line[1:])
            elif line.strip():
                raise ValueError(f"{path.name}:{number}: {line!r}")
    return faults
