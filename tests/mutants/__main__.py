"""``python -m tests.mutants [WORD ...]``: plant the faults whose text has one of the words."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from .faults import ROOT, Fault, read_faults

#: Seconds for the tests of one fault; a fault that hangs them is noticed.
PATIENCE = 300
COPIED = ("choreo_wsgi", "choreoai", "tests", "docs", "deploy", "examples", "bench")
FILES = ("setup.cfg", "setup.py", "pyproject.toml", "README.rst", "Makefile", "CHANGES.rst")


def copy_project(folder: Path) -> None:
    """Copy what the tests read to *folder*; what was built for them is linked."""
    for name in COPIED:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build")
        )
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in ("build", ".venv"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)


def is_noticed(fault: Fault, folder: Path) -> bool:
    """Plant *fault* in *folder*; return whether a test fails, and take it out again."""
    path = folder / fault.file
    text = path.read_text("utf-8")
    path.write_text(fault.planted_in(text), "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    run = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *fault.tests]
    try:
        done = subprocess.run(
            run, cwd=folder, env=environment, capture_output=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_text(text, "utf-8")
    if done.returncode not in (0, 1):  # 1: tests failed; others: nothing was tried
        output = done.stdout.decode("utf-8", "replace")
        if "errors during collection" not in output and "error" not in output:
            raise SystemExit(f"{fault}: pytest ended with {done.returncode}:\n{output}")
    return done.returncode != 0


def main(words: list[str]) -> int:
    """Print the faults that no test noticed; return 1 if there are any."""
    chosen = [fault for fault in read_faults() if not words or any(w in str(fault) for w in words)]
    waiting: queue.SimpleQueue[Fault] = queue.SimpleQueue()
    for fault in chosen:
        waiting.put(fault)
    unseen: list[Fault] = []

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="mutants-") as name:
            copy_project(Path(name))
            while True:
                try:
                    fault = waiting.get_nowait()
                except queue.Empty:
                    return
                noticed = is_noticed(fault, Path(name))
                print("noticed" if noticed else "UNSEEN ", fault, flush=True)
                if not noticed:
                    unseen.append(fault)

    threads = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"\n{len(chosen)} faults planted, {len(unseen)} unseen")
    for fault in unseen:
        print(f"  {fault}")
    return 1 if unseen or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
