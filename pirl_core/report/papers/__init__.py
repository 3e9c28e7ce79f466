"""Tables and figures of papers as data, a YAML file each in this folder, beside what our runs say.

``schema`` reads the files, ``beside`` has the figures that stand beside rows of a scale's report, ``cells`` and
``curves`` fill a table and a figure from ``report.evidence``, ``page`` puts them together, and
``python -m pirl_core.report.papers`` writes the pages.
"""
