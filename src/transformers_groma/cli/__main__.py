"""`python -m transformers_groma.cli`, for launchers that start a module, such as accelerate's."""

import sys

from . import main

sys.exit(main())
