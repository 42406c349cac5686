"""The fingerprint of settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from s2l_ray.config.base import Section


def fingerprint(*parts: Any) -> str:
    """Hash the JSON of the parts (sections, strings, numbers) to 16 hex digits."""
    plain = [p.settings() if isinstance(p, Section) else p for p in parts]
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
