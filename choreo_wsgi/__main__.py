"""``python -m choreo_wsgi``."""

import sys

from .cli import main

sys.exit(main())
