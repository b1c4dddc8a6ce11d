"""Arrays in, arrays out: randomness, spectra, files, the local Gaussian model, noise trackers, mixing; no networks."""
