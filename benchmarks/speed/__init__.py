"""How long an analysis takes, stage by stage, how much memory, and against what others take."""
