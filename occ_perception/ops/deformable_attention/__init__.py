"""Deformable attention: a weighted sum of samples at given places of a map."""
