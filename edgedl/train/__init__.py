"""Training in torch: networks that learn from samples or a teacher, and models carried out."""
