"""A tokenizer for models from scratch."""

import pytest
from support.models import tiny_tokenizer


@pytest.fixture
def tokenizer(store):
    return tiny_tokenizer(store)
