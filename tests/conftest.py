"""One torch thread a worker: many tiny decompositions fighting over cores take ten times longer."""

import torch

torch.set_num_threads(1)
