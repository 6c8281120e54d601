"""Converts DINOv2 weights from any layout. Usage: python tools/convert_weights.py SRC DST"""

from checkout import main

main('convert')
