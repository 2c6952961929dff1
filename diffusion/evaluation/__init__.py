r"""Evaluation: reproducible and comparable metrics of a model or of images.

Samples x_i are functions of (seed, i); an extractor turns each into features f(x_i), and metrics are functions of the
two sets of features, generated and real. The Frechet distance fits a Gaussian to each,

    FD = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))          (Heusel et al. 2017, eq. 6),

the kernel distance is an unbiased estimate of the squared MMD with the kernel (<f, g> / D + 1)^3 (Binkowski et al.
2018), the inception score is exp E KL(p(y | x) || p(y)) (Salimans et al. 2016), precision and recall are the shares of
features that lie within the k-nearest-neighbour balls of the other set (Kynkaanniemi et al. 2019). The arithmetic is
torch-fidelity's.
"""

__all__ = [
    "callback",
    "classification",
    "evaluator",
    "features",
    "fingerprint",
    "forecast",
    "likelihood",
    "metrics",
    "naming",
    "ranks",
    "reference",
    "result",
    "sample_folder",
    "scoring",
]
