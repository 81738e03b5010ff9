"""Types of what people write down: a boolean is no number, a text is none either."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

# Bounds here are all that a field has: pydantic takes the last of two. Nothing is infinite.
Count: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=10**9)]
Number: TypeAlias = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Whole: TypeAlias = Annotated[int, Field(strict=True, ge=0)]
Amount: TypeAlias = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Flag: TypeAlias = Annotated[bool, Field(strict=True)]


class StrictModel(BaseModel):
    """A frozen record that refuses keys which it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
