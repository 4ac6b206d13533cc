"""From affine nodes to the folded model: rules, plan, driver, and the fold of one file or of many."""
