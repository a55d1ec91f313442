"""Many requests on one device: queue, schedule, run, switch versions."""
