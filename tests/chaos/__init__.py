"""A deployment under faults by seed, held against what its publishers were told (`make chaos`)."""
