"""The grid: which members a study has, what they are called, who trains them, and where."""
