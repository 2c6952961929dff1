r"""Weightings: how much each noise level counts, stated on the squared x_0 error as a function of the log-SNR.

What a paper states on another target follows from ||target error||^2 gain = ||x_0 error||^2, gain = (sigma / d)^2: a
weight w on the noise's error (d = alpha) is w SNR on the x_0 error, and on v's error w (SNR + 1) where
alpha^2 + sigma^2 = 1.
"""
