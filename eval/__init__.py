"""Metrics, protocol, novelty and statistics."""
