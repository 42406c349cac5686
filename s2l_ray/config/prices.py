"""The section prices."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from s2l_ray.config.base import Section

Price = Annotated[float, Field(ge=0)]


class PricesConfig(Section):
    """What `plan` and `pilot` price a run with. Changes nothing that a run makes."""

    gpu_hour: Price = Field(0.0, description="Price of a GPU for an hour.")
    cpu_hour: Price = Field(
        0.0, description="Price of a CPU for an hour; 0 if it comes with the GPU's price."
    )
    gb_month: Price = Field(
        0.0, description="Price of a GB (10^9 bytes) on the store for a month; `plan` counts one."
    )
    thousand_puts: Price = Field(
        0.0, description="Price of 1,000 requests that write to the store or list it."
    )
    thousand_gets: Price = Field(
        0.0, description="Price of 1,000 requests that read from the store."
    )
    currency: str = Field("USD", description="Name of the currency, for display.")
