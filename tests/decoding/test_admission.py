"""Which sources are read together."""

import numpy as np

from app.decoding.interface import SearchOptions
from app.decoding.running import Job, _of_similar_length


def test_only_sources_of_similar_length_are_read_together() -> None:
    options = SearchOptions(max_length=4)
    jobs = [Job(length, np.ones(length, np.int64), options) for length in (3, 40, 30, 29, 4, 31, 1)]
    groups = [[job.key for job in group] for group in _of_similar_length(jobs)]
    assert groups == [[40, 31, 30], [29], [4, 3], [1]]
