"""The typed sections of ``params.yaml``, how the file is read and told wrong, and the presets."""
