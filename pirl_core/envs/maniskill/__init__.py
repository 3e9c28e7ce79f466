"""ManiSkill's table-top tasks, alone on the CPU or as rows of one simulation on a GPU."""
