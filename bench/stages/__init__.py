"""What is made on the way from pairs to scores: one file a stage."""
