"""Soft filling in groups: every group of channels has its own lifting weights."""
