"""Labels of points, as models read them: on the region, not on it, or padding."""

# Prompts have different numbers of points: rows with fewer end with `NO_POINT`.
ON_REGION, NOT_ON_REGION, NO_POINT = 1, 0, -1

__all__ = ["NOT_ON_REGION", "NO_POINT", "ON_REGION"]
