"""Publishing on the Hub: what of a folder goes up, as what kind of repository, and the upload."""
