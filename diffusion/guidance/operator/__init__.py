r"""Linear operators of a measurement y = A x_0 + noise: what is known of a picture, for guidance by measurement."""
