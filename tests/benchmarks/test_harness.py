"""What the harness adds to a very small generative model, against plain loops of PyTorch that do the same.  make benchmark"""

import torch

from tests.benchmarks.rehearsal import overhead, rehearse


def test_the_harness_takes_less_than_a_twentieth_of_the_models_own_time():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _, lines = rehearse("gmm", 0.3)
    finally:
        torch.set_num_threads(threads)
    for title, per in (("learn", "trained"), ("score", "scored")):
        each, ratio = overhead(lines, title, per)
        print(f"{title}: {1e6 * each:.1f} us a row more, {ratio:.1%} of plain loops")
        assert ratio < 0.05
