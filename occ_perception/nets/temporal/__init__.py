"""Temporal fusion: every module takes its state and gives the next one."""
