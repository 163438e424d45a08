"""What a run leaves for people: report, plots, gallery, model card."""
