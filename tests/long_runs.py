"""``make nightly``: the long runs in sequence, and a short summary.

With ``CHOREO_NIGHTLY=1`` property tests run many times the usual number of examples.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-ra", "--timeout", "7200"]
PARALLEL = ["-n", str(os.cpu_count() or 1), "--dist", "loadfile", "--no-loadscope-reorder"]
RUNS = {
    "everything, long": [*PYTEST, *PARALLEL],
    "everything, shuffled": [*PYTEST, *PARALLEL, "-p", "randomly"],
    "interop": [*PYTEST, "-m", "interop"],
    "soak": ["make", "soak"],
}


def main(names: list[str]) -> int:
    """Run the RUNS named in *names*, by default all; return 1 if one failed."""
    chosen = {name: RUNS[name] for name in names or RUNS}
    lines: list[str] = []
    failed = False
    for name, command in chosen.items():
        began = time.monotonic()
        log = ROOT / "build" / f"nightly-{name.replace(', ', '-').replace(' ', '-')}.log"
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as output:
            result = subprocess.run(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False
            )
        failed = failed or result.returncode != 0
        printed = log.read_text("utf-8", "replace").strip().splitlines() or ["no output"]
        last = printed[-1]
        verdict = "ok" if result.returncode == 0 else "FAILED"
        lines.append(
            f"{verdict:7}{name:22}{time.monotonic() - began:7.0f} s  {last.strip('= ')[:60]}"
        )
        print(lines[-1], f"({log.relative_to(ROOT)})", flush=True)
        failures = [line[:100] for line in printed if line.startswith(("FAILED ", "ERROR "))]
        lines += [f"       {line}" for line in failures[:8]]
    print("\n" + "\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
