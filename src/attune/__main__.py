"""`python -m attune` is `attune`."""

import sys

from attune.cli.main import main

sys.exit(main())
