"""Many jobs, each run once, on this machine or on a Ray cluster."""
