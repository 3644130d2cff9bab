# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal [COMMAND]. `boot` and those of failure.py belong to the units, `check-initrd` to dracut, all others to people.

This runs at every boot, so it imports neither argparse nor the program's commands.
"""

import sys


def main() -> int:
    """Run the command that the command line names; return its exit status."""
    match sys.argv[1:2]:
        case ["boot"]:
            from . import lazyre

            with lazyre.Later():
                from . import boot
            return boot.main()
        case ["cleanup" | "guard" | "changed" | "greeting" as name]:
            from . import failure

            return int(getattr(failure, name)())
        case ["check-initrd"]:
            from . import checkinitrd

            return checkinitrd.check()
    from .host import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
