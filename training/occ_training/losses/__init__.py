"""Training losses, each a function of raw network outputs and labels.

Class ids in labels are those of the annotation set, 255 = not supervised; where a head has the
published leading dummy class, :func:`~occ_training.losses.classes.head_targets` shifts them.
"""
