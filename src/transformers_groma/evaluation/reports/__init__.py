"""Reports of a run: results, plots, gallery, model card."""
