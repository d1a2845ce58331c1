"""Distillation: a network that learns from the answers of another one, its teacher."""
