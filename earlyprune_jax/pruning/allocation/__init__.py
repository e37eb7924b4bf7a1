"""From scores and a sparsity to a mask: budgets, rankings, patterns."""
