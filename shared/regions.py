"""Where something is in a photo: polygons in shares of its width and height.

So they fit the original, the 256 x 256 maps and a screen alike.
"""

from typing import Annotated

from pydantic import AfterValidator, Field


def _rounded(share: float) -> float:
    return round(share, 4)


Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AfterValidator(_rounded)]
Point = Annotated[list[Share], Field(min_length=2, max_length=2)]
"""[x, y] from the upper left corner."""
Polygon = Annotated[list[Point], Field(min_length=3, max_length=100)]
Region = Annotated[list[Polygon], Field(min_length=1, max_length=20)]
"""All of them together."""
