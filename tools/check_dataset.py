"""Checks the data of a config. Usage: python tools/check_dataset.py CONFIG [--picture FILE]"""

from checkout import main

main('check')
