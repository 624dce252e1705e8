"""Evaluation: mixtures, the separation of all of them, scores, and the report."""
