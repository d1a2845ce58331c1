"""Training: a model carried out in torch, so that its weights can learn."""
