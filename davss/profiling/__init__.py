"""What one separation costs here, and what a whole evaluation would: `davss profile` behind its
flags.

Work is counted from the networks themselves on torch's meta device, which computes nothing, and
from the sampler's own number of evaluations; time is that of real steps of the real separator, set
beside what this machine can do at best, measured in the same run. FLOPs are two per multiply-add.
"""

from davss.profiling.counting import Evaluations, PassFlops, count_evaluations, pass_flops
from davss.profiling.forecast import ASSUMED_TFLOPS, Profile, profile
from davss.profiling.machine import conv_peak, matmul_peak
from davss.profiling.text import describe
from davss.profiling.timing import Timing
from davss.profiling.workload import Workload, untrained_priors

__all__ = [
    "ASSUMED_TFLOPS",
    "Evaluations",
    "PassFlops",
    "Profile",
    "Timing",
    "Workload",
    "conv_peak",
    "count_evaluations",
    "describe",
    "matmul_peak",
    "pass_flops",
    "profile",
    "untrained_priors",
]
