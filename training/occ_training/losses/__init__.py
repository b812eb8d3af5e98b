"""Training losses, each a function of raw network outputs and labels.

Class ids in labels are those of the annotation set, 255 = not supervised. For heads with a leading
dummy class, :func:`~occ_training.losses.classes.head_targets` shifts them.
"""
