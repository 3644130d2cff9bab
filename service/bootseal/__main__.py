# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal [COMMAND]. `boot` and those of failure.py belong to the units, all others to people.

dracut runs `check-initrd` in the new initrd, and `check-keyring DIRECTORY [TREE]` on the machine that builds it.

This runs at every boot, so it imports neither argparse nor the program's commands.
"""

import sys


def main() -> int:
    """Run the command that the command line names; return its exit status."""
    match sys.argv[1:2]:
        case ["boot"]:
            from . import boot

            return boot.main()
        case ["cleanup" | "guard" | "changed" | "greeting" as name]:
            from . import failure

            return int(getattr(failure, name)())
        case ["check-initrd"]:
            from . import checkinitrd

            return checkinitrd.check()
        case ["check-keyring"]:
            from . import reference

            return reference.check_keyring(*sys.argv[2:4])
    from .host import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
