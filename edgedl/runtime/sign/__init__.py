"""Who made a bundle, and who may read its models: signatures and encryption."""
