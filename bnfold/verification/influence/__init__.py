"""Which changed nodes no proof covers, and whether any input shows what they do."""
