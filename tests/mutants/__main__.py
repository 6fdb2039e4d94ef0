"""``python -m tests.mutants [--families] [WORD ...]``: plant all faults, or those with a WORD."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .families import Families
from .faults import ROOT, Fault, read_faults

#: Seconds for all tests of one fault, and for one test; a fault that exceeds them is noticed.
PATIENCE, TEST_PATIENCE = 150, 45
COPIED = ("choreo_wsgi", "choreoai", "tests", "docs", "deploy", "examples", "bench")
#: The file of ``--families`` with the cases that no fault made fail.
DETAILS = ROOT / "build" / "mutants-families.txt"
FILES = (
    *("setup.cfg", "setup.py", "pyproject.toml", "ruff.toml"),
    *("README.rst", "Makefile", "CHANGES.rst"),
)


def copy_project(folder: Path) -> None:
    """Copy the files that the tests read to *folder*; link those that were built for them."""
    for name in COPIED:
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "_build")
        )
    for name in FILES:
        shutil.copy(ROOT / name, folder / name)
    for name in ("build", ".venv"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)


def generate(fault: Fault, folder: Path) -> None:
    """Generate the sync client in *folder* from the async one, if that has the *fault*."""
    if fault.file.startswith("choreoai/aio/"):
        script = [sys.executable, "tests/generate/unasync.py"]
        subprocess.run(script, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def is_noticed(fault: Fault, folder: Path, *arguments: str) -> bool:
    """Plant *fault* in *folder*; return whether a test of pytest's *arguments* fails or hangs.

    The fault is removed again, and all processes of the tests are killed.
    """
    path = folder / fault.file
    text = path.read_text("utf-8")
    path.write_text(fault.planted_in(text), "utf-8")
    generate(fault, folder)
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [f"--timeout={TEST_PATIENCE}", *arguments]
    with tempfile.TemporaryFile() as output:
        run = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            status = run.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            path.write_text(text, "utf-8")
            generate(fault, folder)
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if status not in (0, 1, 5) and "error" not in text:  # 1: tests failed; 5: no tests
        raise SystemExit(f"{fault}: pytest ended with {status}:\n{text}")
    return status not in (0, 5)


def plant(faults: list[Fault], families: Families | None) -> list[Fault]:
    """Plant *faults* on all cores; return those that no test noticed."""
    waiting: queue.SimpleQueue[Fault] = queue.SimpleQueue()
    for fault in faults:
        waiting.put(fault)
    unseen: list[Fault] = []

    def work() -> None:
        with tempfile.TemporaryDirectory(prefix="mutants-") as name:
            folder = Path(name)
            copy_project(folder)
            while True:
                try:
                    fault = waiting.get_nowait()
                except queue.Empty:
                    return
                arguments = families.arguments(fault, folder) if families else ["-x", *fault.tests]
                noticed = is_noticed(fault, folder, *arguments)
                if families:
                    families.read(fault, folder)
                print("noticed" if noticed else "UNSEEN ", fault, flush=True)
                if not noticed:
                    unseen.append(fault)

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work) for _ in range(workers)]:
            future.result()
    return unseen


def main(words: list[str]) -> int:
    """Print the faults that no test noticed; return 1 if there are any."""
    families = Families() if "--families" in words else None
    words = [word for word in words if not word.startswith("--")]
    chosen = [fault for fault in read_faults() if not words or any(w in str(fault) for w in words)]
    unseen = plant(chosen, families)
    if families:
        DETAILS.write_text(families.table(details=True) + "\n", "utf-8")
        print(f"\n{families.table(details=False)}\nThe cases that never failed: {DETAILS}")
        return 0
    print(f"\n{len(chosen)} faults planted, {len(unseen)} unseen")
    for fault in unseen:
        print(f"  {fault}")
    return 1 if unseen or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
