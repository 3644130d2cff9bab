#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# efi.sh KERNEL INITRD CMDLINE ESP SCRATCH: a system partition with one program, a signed unified kernel image, and a credential.
set -eu
kernel=$1 initrd=$2 cmdline=$3 esp=$4 scratch=$5
stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub
keys=/usr/share/ovmf/PkKek-1-snakeoil

align() { echo $((($1 + 4095) / 4096 * 4096)); }

echo 'ID=guest' >"$scratch/osrel"
# Behind the stub's last section, one after the other.
at=$(align $(($(objdump -h "$stub" | awk 'NF == 7 { end = "0x" $4 " + 0x" $3 } END { print end }'))))
set --
for section in "osrel $scratch/osrel" "cmdline $cmdline" "linux $kernel" "initrd $initrd"; do
    name=.${section%% *} file=${section#* }
    set -- "$@" --add-section "$name=$file" --change-section-vma "$name=$at"
    at=$(align $((at + $(stat -Lc %s "$file"))))
done
objcopy "$@" "$stub" "$scratch/unsigned.efi"
openssl rsa -in $keys.key -passin pass:snakeoil -out "$scratch/signing.key"
sbsign --key "$scratch/signing.key" --cert $keys.pem --output "$scratch/signed.efi" "$scratch/unsigned.efi"

truncate -s "$(($(stat -c %s "$scratch/signed.efi") * 9 / 8 + (4 << 20)))" "$esp"
mformat -i "$esp" -F ::
mmd -i "$esp" ::EFI ::EFI/BOOT
mcopy -i "$esp" "$scratch/signed.efi" ::EFI/BOOT/BOOTX64.EFI
# Nobody signs it, and the stub hands it to the initrd.
echo 'guest' >"$scratch/guest.cred"
mmd -i "$esp" ::loader ::loader/credentials
mcopy -i "$esp" "$scratch/guest.cred" ::loader/credentials/guest.cred
