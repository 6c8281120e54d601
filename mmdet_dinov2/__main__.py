"""``python -m mmdet_dinov2``, the same as the command ``mmdet_dinov2``."""

from mmdet_dinov2_command import main

main()
