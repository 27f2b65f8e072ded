#!/usr/bin/env python
"""Django's command line. `up` starts the whole product (gateway/supervisor.py)."""

import os
import sys

from gateway.environment import adopt, data_folder


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gateway.settings")
    if sys.argv[1:2] == ["up"] and "--prepare-only" not in sys.argv:
        from gateway import supervisor  # noqa: PLC0415 - only `up` needs it

        sys.exit(supervisor.main(sys.argv[2:]))
    adopt(data_folder())
    from django.core.management import execute_from_command_line  # noqa: PLC0415 - settings must be named first

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
