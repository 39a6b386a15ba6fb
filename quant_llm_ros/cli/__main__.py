"""``python3 -m quant_llm_ros.cli``, where the program is not on the path."""

import sys

from quant_llm_ros.cli import main

sys.exit(main())
