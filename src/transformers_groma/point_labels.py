"""Numbers of points as models read them: their labels, and which of several masks a click means."""

# Prompts have different numbers of points: rows with fewer end with `NO_POINT`.
ON_REGION, NOT_ON_REGION, NO_POINT = 1, 0, -1

# What a click may mean. A model reads the place in this list, or `BEST`: the mask of the best estimated quality.
AMBIGUITIES = ("part", "object", "group")
PART, OBJECT, GROUP = range(len(AMBIGUITIES))
BEST = -1

__all__ = ["AMBIGUITIES", "BEST", "GROUP", "NOT_ON_REGION", "NO_POINT", "OBJECT", "ON_REGION", "PART"]
