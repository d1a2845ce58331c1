"""From a recipe to a bundle: what each stage makes is kept."""
