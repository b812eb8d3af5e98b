"""What the parameters of SparseOcc are called in the published checkpoint."""

from __future__ import annotations

from occ_perception.models.published_names import NameRules

_HEAD = "pts_bbox_head.transformer."
_LAYER: NameRules = (
    ("position.", "position_encoder."),
    ("attention.attend.", "self_attn.attention.attn."),
    ("attention.fading.", "self_attn.gen_tau."),
    ("attend.", "self_attn.self_attn."),
    ("sampling.offset.", "sampling.sampling_offset."),
    ("sampling.level_weights.", "sampling.scale_weights."),
    ("mixing.generate.", "mixing.parameter_generator."),
    ("mixing.merge.", "mixing.out_proj."),
    ("feed_forward.widen.", "ffn.layers.0.0."),
    ("feed_forward.narrow.", "ffn.layers.1."),
    ("mask.", "mask_proj."),
    ("classify.", "classifier."),
    ("norm", "norm"),
)
_VOXEL_LAYERS = tuple(
    (f"voxels.layers.{number}.{ours}", f"{_HEAD}voxel_decoder.decoder_layers.{number}.{theirs}")
    for number in range(3)
    for ours, theirs in _LAYER
)
_MASK_LAYER = tuple(
    (f"masks.layer.{ours}", f"{_HEAD}decoder.decoder_layer.{theirs}")
    for ours, theirs in (("sampling.offset.", "sampling.offset."), *_LAYER)
)
_NECK = tuple(
    (f"image.neck.{ours}.{level}.", f"img_neck.{theirs}.{level}.conv.")
    for level in range(4)
    for ours, theirs in (("lateral", "lateral_convs"), ("smooth", "fpn_convs"))
)

SPARSEOCC_NAMES: NameRules = (
    ("image.backbone.", "img_backbone."),
    *_NECK,
    *_VOXEL_LAYERS,
    ("voxels.lift.0.", f"{_HEAD}voxel_decoder.lift_feat_heads.0.0."),
    ("voxels.lift.1.", f"{_HEAD}voxel_decoder.lift_feat_heads.1.0."),
    ("voxels.lift.2.", f"{_HEAD}voxel_decoder.lift_feat_heads.2.0."),
    ("voxels.classify.", f"{_HEAD}voxel_decoder.seg_pred_heads."),
    ("masks.query.", f"{_HEAD}decoder.query_feat."),
    ("masks.place.", f"{_HEAD}decoder.query_pos."),
    *_MASK_LAYER,
)
"""Rules from our names to those of the file."""
