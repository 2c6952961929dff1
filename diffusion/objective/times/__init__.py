"""Times: the distribution of noise levels that training visits."""
