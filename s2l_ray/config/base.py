"""The base class of all sections."""

from __future__ import annotations

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
)

from s2l_ray.config.strict_yaml import SURROGATE
from s2l_ray.config.values import shown


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), strict=False, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain_value(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's `yes` as a number would quietly be 1; the others could not be written as JSON."""
        assert info.field_name is not None
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool) and cls.model_fields[info.field_name].annotation is not bool:
                raise ValueError(f"found {value!r}, wanted no truth value")
            if isinstance(item, int) and abs(item) >= 2**63:
                raise ValueError(f"found {shown(item)}")
            if isinstance(item, str) and SURROGATE.search(item):
                raise ValueError(f"found {shown(item)}, wanted Unicode text")
        return value
