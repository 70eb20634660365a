"""Failures in the shared laws are shown with their values."""

import pytest

pytest.register_assert_rewrite("laws")
