"""Measures what detectors cost and how they compare with their peers.

Usage: python tools/benchmark.py CONFIG...
       python tools/benchmark.py --suite NAME
"""

from checkout import main

main('benchmark')
