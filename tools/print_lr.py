"""Draws the learning rates of all parameter groups. Usage: python tools/print_lr.py CONFIG"""

from checkout import main

main('lr')
