"""Lets the scripts in this folder run the package of this checkout, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmdet_dinov2_command import main  # noqa: F401
