"""Synthetic captures with full ground truth."""
