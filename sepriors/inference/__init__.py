"""What is done with a prior: EM, samplers, reverse processes, ascents. Never sees a file, a corpus or a network."""
