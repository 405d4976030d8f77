"""Set-up that every test shares."""

from __future__ import annotations

import os

# Before anything imports JAX: the tests run on the CPU whatever the machine has.
os.environ["JAX_PLATFORMS"] = "cpu"
