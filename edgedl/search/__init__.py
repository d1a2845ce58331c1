"""The choice among ways to run a model, made by measuring."""
