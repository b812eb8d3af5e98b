"""Image backbones: our ResNet for the published checkpoints, timm for everything else."""
