"""Supervised flow matching on demonstrations, and the changes of their pictures."""
