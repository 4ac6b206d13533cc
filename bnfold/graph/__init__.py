"""The view over a model: nodes, constants, scopes, edits, and the one editor."""
