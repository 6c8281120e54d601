"""Trains a config and changes of it with several seeds, and compares them.

Usage: python tools/ablate.py PLAN
"""

from checkout import main

main('ablate')
