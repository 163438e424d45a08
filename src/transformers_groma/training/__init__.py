"""Training: one script a stage, and what the stages share."""
