"""Files that the project writes."""

import os
import subprocess
import sys

from .tools import ROOT


def test_texts_are_utf_8_whatever_the_locale(tmp_path):
    path = tmp_path / 'page.html'
    code = f'from mmdet_dinov2.files import write_text; write_text({str(path)!r}, "\\u2013")'
    plain = dict(os.environ, LC_ALL='C', PYTHONCOERCECLOCALE='0', PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, '-X', 'utf8=0', '-c', code], env=plain, check=True)
    assert path.read_bytes() == '\u2013'.encode()
