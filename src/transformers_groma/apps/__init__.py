"""Pages for people without code: the app and the view of an answer."""
