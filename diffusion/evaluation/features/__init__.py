"""Feature extractors, all of them torch-fidelity's or registered with it; each has a name that its metrics carry."""

__all__ = ["base", "checked", "classifier", "efficientnet", "extractor", "gather", "inception"]
