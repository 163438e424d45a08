"""GLaMM: answers whose phrases are tied to masks."""
