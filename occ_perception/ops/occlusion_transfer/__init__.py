"""Occlusion transfer: from where a surface is seen to the space it occupies behind."""
