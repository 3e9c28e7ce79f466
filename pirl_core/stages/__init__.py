"""One module per stage of dvc.yaml: ``python -m pirl_core.stages.<stage> --help``."""
