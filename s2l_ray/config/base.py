"""The base class of all sections."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
)

from s2l_ray.config.credentials import credentials_fault
from s2l_ray.config.strict_yaml import SURROGATE
from s2l_ray.config.values import shown


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), strict=False, allow_inf_nan=False
    )
    newer: ClassVar[tuple[str, ...]] = ()  # fields that a fingerprint has only if they are set

    def settings(self) -> dict[str, Any]:
        """Return the fields as JSON for a fingerprint, without the newer ones at their defaults.

        So a configuration that does without them keeps its fingerprint.
        """
        found = self.model_dump(mode="json")
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in self.newer and value == field.default:
                del found[name]
            elif isinstance(value, Section):
                found[name] = value.settings()
        return found

    @field_validator("*", mode="before")
    @classmethod
    def _plain_value(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse booleans that pydantic would take for numbers, what JSON cannot hold, and
        credentials."""
        assert info.field_name is not None
        annotation = cls.model_fields[info.field_name].annotation
        # The fields of a section are looked at one by one.
        if not _holds_sections(annotation) and (fault := credentials_fault(value)):
            raise ValueError(fault)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool) and annotation is not bool:
                expected = "a number" if _takes_numbers(annotation) else "another type"
                raise ValueError(f"expected {expected}, got a boolean ({shown(item)})")
            if isinstance(item, int) and abs(item) >= 2**63:
                raise ValueError(f"expected a number within 64 bits, got {shown(item)}")
            if isinstance(item, str) and SURROGATE.search(item):
                raise ValueError(f"expected Unicode text, got {shown(item)}")
        return value


def _takes_numbers(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_takes_numbers, get_args(annotation)))


def _holds_sections(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return True
    return any(map(_holds_sections, get_args(annotation)))
