"""From what sensors send to camera frames; shared by the bag reader and the node.

``layouts`` names the topics, ``images`` decodes, ``frame_sets`` groups images of one rotation,
``ego_pose`` and ``transform_tree`` say where the vehicle and its cameras were, ``calibration``
builds rigs, ``assembly`` puts it all together into a :class:`occ_perception.frames.CameraFrame`.
"""
