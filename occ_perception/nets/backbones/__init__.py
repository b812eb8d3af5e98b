"""Image backbones: our ResNet for the released checkpoints, timm for everything else."""
