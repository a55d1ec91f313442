"""Search over any step model: greedy, beam, sampling, and the running batch that drives them."""
