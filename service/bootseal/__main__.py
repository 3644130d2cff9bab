# SPDX-License-Identifier: LGPL-2.1-or-later
"""bootseal [COMMAND]: `boot`, `cleanup`, `guard`, `changed` and `greeting` belong to the units, `check-initrd` to dracut.

Every other command belongs to the running system.

No argparse here: this is the way that each boot goes.
"""

import sys


def main() -> int:
    command = sys.argv[1:2]
    if command == ["boot"]:
        from . import lazyre

        with lazyre.Later():
            from . import boot
        return boot.main()
    if command == ["cleanup"]:
        from . import failure

        return failure.main()
    if command == ["guard"]:
        from . import failure

        return failure.guard()
    if command == ["changed"]:
        from . import failure

        return failure.changed()
    if command == ["greeting"]:
        from . import greeting

        return greeting.main()
    if command == ["check-initrd"]:
        from . import checkinitrd

        return checkinitrd.check()
    from .host import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
