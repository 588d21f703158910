"""Settings for every test: hypothesis, and Ctrl-C."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

# The same examples in every run, so that a failure is there again; no deadline, since no test measures time.
settings.register_profile("default", derandomize=True, deadline=None, print_blob=True)
# HYPOTHESIS_PROFILE=soak: many new examples; a failure prints what brings it back.
settings.register_profile("soak", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# What a shell starts in the background ignores SIGINT, and so do its children; the tests are about a Ctrl-C that arrives.
signal.signal(signal.SIGINT, signal.default_int_handler)
