"""`python -m benchmarks`: what can be measured with the served models alone. The others are run by name."""

from benchmarks import serving_concurrency

serving_concurrency.main()
