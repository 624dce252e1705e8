"""Networks: plain modules that know nothing of diffusion."""

from davss.networks.braven import BRAVEn
from davss.networks.ncsnpp import NCSNpp

__all__ = ["BRAVEn", "NCSNpp"]
