"""The gates: what looks at rows, takes out or refuses, and says why."""

import os

# The kernels' threads sleep between two parallel loops. Spinning, as GNU OpenMP has it unless told before it is loaded,
# costs a fifth of the gates' CPU time, and more where other processes want the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
