"""Updates of agents and fits of models that run faster: compiled, captured as CUDA graphs, or with a fused Adam."""
