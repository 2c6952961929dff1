"""Images of any source with what is known of them: the records of a collection, and the splits that become of them."""

__all__ = ["base", "record"]
