"""Stages as jobs on a Ray cluster."""

from davss.errors import require_packages

require_packages("ray")
