"""MetaWorld: 50 tasks of a Sawyer arm, drawn by MuJoCo."""
