"""Training runs: recipes, jobs, agents built from them, and runs that resume exactly."""
