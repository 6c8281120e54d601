"""Opens a page in headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
# The page in a frame of the wanted width; its measures become the text of this page.
_FRAME = """<!DOCTYPE html><title>frame</title>
<iframe id="f" src="{name}" style="width: {width}px; height: 800px; border: 0"></iframe>
<script>
document.getElementById('f').onload = function () {{
  var page = this.contentDocument;
  document.body.textContent = 'scroll ' + page.documentElement.scrollWidth
    + ' view ' + page.documentElement.clientWidth + ' title ' + page.title;
}};
</script>"""


def find_browser() -> str:
    """Returns the path of Chromium; skips the test if it is not installed."""
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip('needs Chromium (apt-get install chromium)')
    return path


def open_page(page: Path, width: int) -> tuple[int, int, str, list[str]]:
    """Opens a page in a frame of a width in pixels.

    Returns:
        The width of its content and of the view in pixels, its title, and the console messages.
    """
    frame = page.with_name(f'{page.stem}-{width}.frame.html')
    frame.write_text(_FRAME.format(name=page.name, width=width))
    command = [
        find_browser(), '--headless=new', '--disable-gpu', '--hide-scrollbars',
        '--allow-file-access-from-files', '--enable-logging=stderr', '--v=0',
        f'--user-data-dir={page.parent / "browser"}', '--window-size=1400,900',
        '--virtual-time-budget=20000', '--dump-dom', frame.as_uri(),
    ]  # fmt: skip
    if os.geteuid() == 0:  # Chromium's sandbox does not work as root
        command.insert(1, '--no-sandbox')
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = re.search(r'scroll (\d+) view (\d+) title (.*?)\s*</body>', done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if 'CONSOLE' in line]
    return int(found[1]), int(found[2]), found[3], console
