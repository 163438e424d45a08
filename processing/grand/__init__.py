"""GranD (GLaMM paper section 4): annotates images with objects, relations, grounded captions and masks."""
