"""Parts of the recipe, one at a time, on photos of raccoons.

Command:    mmdet_dinov2 ablate tools/ablations/raccoon.py

The raccoon dataset (github.com/datitran/raccoon_dataset, MIT) has to be in data/raccoon, in Pascal
VOC's format. Model, base and changes are those of bccd.py.
"""

_base_ = 'bccd.py'

data = 'data/raccoon'
