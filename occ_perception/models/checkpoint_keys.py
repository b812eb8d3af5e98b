"""What our parameters are called in the released checkpoints.

Our names say what a module does; files keep the names of the code they were trained with. A rule
replaces the start of a name; the first rule that fits is used.
"""

from __future__ import annotations

NameRules = tuple[tuple[str, str], ...]

_SCENE = "scene_his_func_after_vox_his.scene_his_"

OCCSTUDIO_NAMES: NameRules = (
    ("image.backbone.", "img_backbone."),
    ("image.neck.lateral_fine.", "img_neck.lateral_convs.0.conv."),
    ("image.neck.lateral_coarse.", "img_neck.lateral_convs.1.conv."),
    ("image.neck.smooth.", "img_neck.fpn_convs.0.conv."),
    ("depth.reduce.", "depth_net.reduce_conv."),
    ("depth.camera_norm.", "depth_net.bn."),
    ("depth.depth_gate.fc", "depth_net.depth_mlp.fc"),
    ("depth.depth_gate.", "depth_net.depth_se.conv_"),
    ("depth.context_gate.fc", "depth_net.context_mlp.fc"),
    ("depth.context_gate.", "depth_net.context_se.conv_"),
    ("depth.context_head.", "depth_net.context_conv."),
    ("depth.depth_branch.", "depth_net.depth_conv."),
    ("depth.depth_logits.", "depth_net.depth_conv.4."),
    ("depth.length_branch.", "depth_net.occ_conv."),
    ("depth.matching.", "depth_net.cost_volumn_net."),
    ("geometry_fusion.logits.", "depth_net.depth_head2."),
    ("geometry_fusion.blend.gate.layers.", "depth_net.depth_his_fusion_post_layer.gate_net."),
    ("geometry_fusion.output_gate.layers.", "depth_net.gate_net."),
    ("inter_object.factors.conv.", "depth_net.depth2occ_inter_weight_net."),
    ("inter_object.offsets.conv.", "depth_net.depth2occ_inter_bias_net."),
    ("pre.stack.stages.", "pre_process.layers."),
    ("temporal.project.conv.", "history_keyframe_time_conv.0."),
    ("temporal.project.norm.", "history_keyframe_time_conv.1."),
    ("temporal.fuse.conv.", "history_keyframe_cat_conv.0."),
    ("temporal.fuse.norm.", "history_keyframe_cat_conv.1."),
    ("temporal.motion.predict.", "his_stream_offset_net.history_stream_offset_net."),
    ("temporal.history.time_code.", "time_emb_net."),
    ("temporal.history.project.conv.", "history_keyframe_time_conv.0."),
    ("temporal.history.project.norm.", "history_keyframe_time_conv.1."),
    ("temporal.history.fuse.conv.", "history_keyframe_cat_conv.0."),
    ("temporal.history.fuse.norm.", "history_keyframe_cat_conv.1."),
    ("temporal.scene.query.", _SCENE + "q."),
    ("temporal.scene.key.", _SCENE + "k."),
    ("temporal.scene.value.", _SCENE + "v."),
    ("temporal.scene.weight", _SCENE + "learnable_weight"),
    ("temporal.scene.bias", _SCENE + "learnable_bias"),
    ("temporal.scene.norm_", _SCENE + "norm_"),
    ("encoder.backbone.stages.", "img_bev_encoder_backbone.layers."),
    ("encoder.neck.conv.weight", "img_bev_encoder_neck.conv.conv.weight"),
    ("encoder.neck.bn.", "img_bev_encoder_neck.conv.bn."),
    ("encoder.neck.", "img_bev_encoder_neck."),
    ("height.conv.", "final_conv."),
    ("flow.encode.", "alocc_head.cost_volum_net."),
    ("flow.join.conv.", "alocc_head.flow_post_conv.0."),
    ("flow.predict.", "alocc_head.flow_predicter."),
    ("head.query.", "alocc_head.query_feat."),
    ("head.norm.", "alocc_head.post_norm."),
    ("head.voxel_embed.", "alocc_head.mask_embed."),
    ("head.image_embed.", "alocc_head.mask_embed2."),
)
"""Rules of the detector that ALOcc, GDFusion, BEVDetOcc and FB-Occ checkpoints come from."""

WRAPPER_PREFIXES = ("module.", "teacher.", "_orig_mod.")
"""Added by data-parallel, averaging and compiling wrappers; they say nothing about the model."""

_OLD_PARTS = (
    ("forward_projection", "view_transformer"),
    ("maskformerocc_head", "alocc_head"),
    ("depth2occ_hidden_weight_net", "depth2occ_inter_weight_net"),
    ("depth2occ_hidden_bias_net", "depth2occ_inter_bias_net"),
    ("ttt_layer_func_after_his", "scene_his_func_after_vox_his"),
    ("scene_his_func_after_vox_his.ttt_", _SCENE),
)
"""What parts were called in files from before the reference code renamed them."""


def checkpoint_key(our_key: str, rules: NameRules = OCCSTUDIO_NAMES) -> str:
    """The name of one of our parameters or buffers in a released file.

    Raises:
        KeyError: no rule covers the name, which means that a module was added without one.
    """
    for ours, theirs in rules:
        if our_key.startswith(ours):
            return theirs + our_key[len(ours) :]
    raise KeyError(f"no checkpoint key for {our_key}; add a rule for it")


def unwrapped_key(key: str) -> str:
    """A file's key without the prefixes of wrappers."""
    while key.startswith(WRAPPER_PREFIXES):
        key = key.split(".", 1)[1]
    return key


def current_key(key: str) -> str:
    """A file's key as the reference code has it now, without the prefixes of wrappers."""
    key = unwrapped_key(key)
    for old, new in _OLD_PARTS:
        key = key.replace(old, new)
    return key
