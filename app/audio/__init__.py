"""Sound: any format to samples, samples to log-mel features, where speech is, and windows of it."""
