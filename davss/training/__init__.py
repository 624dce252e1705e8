"""Training of the priors: loop, EMA, checkpoints, validation, tracking, Ray Train."""
