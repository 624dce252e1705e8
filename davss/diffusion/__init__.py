"""Diffusion models of single signals: preconditioning, noise levels, training loss, guidance,
priors on disk.
"""
