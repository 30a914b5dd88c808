"""How quick capmig's ways are, as ratios to the plain ones in the same run."""
