"""Checks packages, devices and disk. Usage: python tools/check_env.py [--work-dir DIR]"""

from checkout import main

main('env')
