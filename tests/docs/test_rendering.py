"""The documentation, built and measured in Chromium: nothing too wide, cut off or unrendered."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chromium_page import Pages

DOCS = Path(__file__).resolve().parents[2] / "docs"

#: Opens each page in a frame and writes its problems, by page, into #found.
MEASURE = """<!doctype html><meta charset="utf-8"><pre id="found"></pre><script>
async function load(name) {
  const frame = document.createElement('iframe');
  frame.src = name + '.html';
  await new Promise(loaded => { frame.onload = loaded; document.body.append(frame); });
  return frame;
}
function problems(frame, width) {
  frame.style = `width: ${width}px; height: 3000px`;
  const page = frame.contentDocument, body = page.querySelector('div.body');
  if (!body) return ['no body'];
  const style = e => frame.contentWindow.getComputedStyle(e);
  const padding = parseFloat(style(body).paddingRight), found = [];
  const edge = body.getBoundingClientRect().right - padding + 1;
  const words = e => e.tagName + ': ' + e.textContent.trim().slice(0, 60);
  const scrolls = e => e && style(e).overflowX == 'auto';
  for (const e of body.querySelectorAll('table, p, li, dt, pre, img, h1, h2, h3'))
    if (e.getBoundingClientRect().right > edge && !scrolls(e.parentElement.closest('table')))
      found.push('too wide, ' + words(e));
  if (width >= 1200) for (const e of body.querySelectorAll('pre'))
    if (e.scrollWidth > e.clientWidth) found.push('cut, ' + words(e));
  for (const e of body.querySelectorAll('thead tr'))
    if (!e.textContent.trim()) found.push('empty header, ' + words(e.closest('table')));
  for (const e of body.querySelectorAll('td, p, li, h1, h2, h3'))
    if (e.scrollWidth > e.clientWidth + 1)
      found.push('cut, ' + words(e));
  for (const e of body.querySelectorAll('p, li, td, dd'))
    if ([...e.childNodes].some(n => n.nodeType == 3 && /``|\\.\\. \\w+::/.test(n.data)))
      found.push('raw markup, ' + words(e));
  for (const e of body.querySelectorAll('code'))
    if (e.textContent.includes('``')) found.push('raw markup, ' + words(e));
  for (const e of body.querySelectorAll('.system-message, .problematic'))
    found.push('error, ' + words(e));
  for (const e of body.querySelectorAll('img'))
    if (!e.naturalWidth) found.push('no picture, ' + e.src);
  return found;
}
(async () => {
  const found = {}, frames = await Promise.all(NAMES.map(load));
  for (const width of WIDTHS) for (const [n, name] of NAMES.entries())
    found[`${name} ${width}`] = problems(frames[n], width);
  document.getElementById('found').textContent = JSON.stringify(found);
})();
</script>"""


def build(source: Path, target: Path) -> None:
    """Build the pages of *source* as ``make docs`` does: a warning is an error."""
    pytest.importorskip("sphinx", reason="sphinx is in the extra `check`")
    words = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(source), str(target)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def measure(chromium: str, folder: Path, names: list[str], *widths: int) -> dict[str, list[str]]:
    """Return the problems of each of the built pages *names*, at each of *widths* in pixels."""
    text = MEASURE.replace("NAMES", json.dumps(names)).replace("WIDTHS", json.dumps(widths))
    (folder / "measure.html").write_text(text)
    pages = Pages(folder)
    try:
        done = subprocess.run(
            [
                *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"),
                *("--virtual-time-budget=60000", f"--user-data-dir={folder}/profile"),
                pages.url("measure", host="127.0.0.1"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        pages.close()
    written = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert written and written[1], done.stderr
    found: dict[str, list[str]] = json.loads(html.unescape(written[1]))
    return found


def test_rendered_pages_have_no_layout_problems(
    tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    chromium = require_tool("chromium", "chromium")
    build(DOCS, tmp_path)
    names = sorted(path.stem for path in DOCS.glob("*.rst"))
    assert len(names) > 10
    found = measure(chromium, tmp_path, names, 1200, 800, 360)
    assert len(found) == 3 * len(names)
    assert not any(found.values()), found


WRONG = """\
Wrong
=====

A frame is ``data: `` and one ``line``.

=======  =======
\\        \\
=======  =======
one      two
=======  =======

.. list-table::

   * - %s
     - two

.. image:: _static/nothing.png
""" % ("wide" * 60)


def test_layout_check_finds_each_kind_of_problem(
    tmp_path: Path, require_tool: Callable[[str, str], str]
) -> None:
    chromium = require_tool("chromium", "chromium")
    source = tmp_path / "docs"
    (source / "_static").mkdir(parents=True)
    (source / "_static" / "nothing.png").write_text("no picture")
    (source / "conf.py").write_text('html_theme = "alabaster"\n')
    (source / "index.rst").write_text(WRONG)
    build(source, tmp_path / "html")
    (found,) = measure(chromium, tmp_path / "html", ["index"], 1000).values()
    kinds = {problem.partition(",")[0] for problem in found}
    assert kinds == {"raw markup", "empty header", "too wide", "no picture"}, found
