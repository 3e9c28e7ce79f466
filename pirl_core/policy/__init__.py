"""The flow policy: backbone, heads, and its folder on disk."""
