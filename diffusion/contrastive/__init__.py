"""CLIPs: images and texts as vectors of one space; trained here, or read from transformers."""

__all__ = ["base", "convolutional", "pretrained", "trainable"]
