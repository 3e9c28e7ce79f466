"""Gymnasium: any environment that is registered, by its id, from this package or from one's own."""
