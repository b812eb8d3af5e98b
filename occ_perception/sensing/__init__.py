"""From sensor messages to camera frames; shared by the bag reader and the node.

``layouts`` defines the topics, ``images`` decodes, ``frame_sets`` groups the images of one
rotation, ``ego_pose`` and ``transform_tree`` hold the poses of the vehicle and its cameras,
``calibration`` builds rigs, ``assembly`` creates a :class:`occ_perception.frames.CameraFrame`.
"""
