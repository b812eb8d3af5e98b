"""Adaptive mixing: sampled features through layers whose weights the query itself generates."""
