"""Many episode slots: over worker processes, or as rows of one simulation on a GPU; and their replay."""
