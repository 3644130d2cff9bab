#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# bootseal: verifies the signed digest of a composefs root, and mounts nothing else. See bootseal.service(8).
#
# dracut ignores what install() returns. An initrd without its check must not come to be, so install() ends dracut itself.
#
# shellcheck disable=SC2154  # initdir, systemdsystemunitdir and others are dracut's

_bootseal_libdir=/usr/lib/bootseal

# Ends the build with one line.
_bootseal_fatal() {
    dfatal "bootseal: $*"
    exit 1
}

# inst_simple(), which says nothing of a file that is not there.
_bootseal_install_file() {
    inst_simple "$@" || _bootseal_fatal "cannot install $1"
}

# Whether a kernel configuration option is y or m; also when no configuration is to be found.
_bootseal_kernel_has() {
    local _file
    for _file in "/usr/lib/modules/$kernel/config" "/lib/modules/$kernel/config" "/boot/config-$kernel"; do
        [[ -r ${dracutsysrootdir-}$_file ]] || continue
        grep -q "^CONFIG_$1=[ym]" "${dracutsysrootdir-}$_file"
        return
    done
    dwarn "bootseal: no configuration of kernel $kernel found: whether it has CONFIG_$1 is not known"
}

# called by dracut
check() {
    require_binaries python3 findmnt "$systemdutildir"/systemd || return 1
    # Only on request: add_dracutmodules+=" bootseal "
    return 255
}

# called by dracut
depends() {
    echo systemd systemd-initrd
}

# called by dracut
installkernel() {
    local _module
    # With hostonly only what this machine uses now would be installed; the next boot uses these.
    hostonly='' instmods erofs overlay loop
    # The kernel's own check: whichever of these it has as modules.
    hostonly='' instmods -s ecdsa_generic ecdsa rsa_generic sha256_generic sha512_generic crypto_engine || :
    # For PID 1 to mount; without it nothing tells that Secure Boot vouches for this initrd.
    hostonly='' instmods -s efivarfs || :
    for _module in erofs overlay; do
        # In the initrd, and not only on this machine: omit_drivers+= may keep it out.
        [[ $(find "$initdir/usr/lib/modules/$kernel" "$initdir/lib/modules/$kernel/" -name "$_module.ko*" 2> /dev/null) ]] && continue
        [[ $(modinfo -k "$kernel" -F filename "$_module" 2> /dev/null) == "(builtin)" ]] && continue
        dfatal "bootseal: kernel module $_module of $kernel is not in the initrd"
        return 1
    done
    return 0
}

# called by dracut
install() {
    _bootseal_check_modules
    _bootseal_install_python
    _bootseal_install_configuration
    _bootseal_install_units
    _bootseal_install_last_look
    _bootseal_remove_bypasses
    _bootseal_check_result
    return 0
}

# No other module may mount the root, and none may mount or run something from the disk after us. bootseal/host/initrd/bypasses.py
# knows the same modules by the files that they leave in an initrd.
_bootseal_check_modules() {
    local _module
    for _module in $modules_loaded $mods_to_load; do
        case $_module in
            # Named by whoever ships it: 51bootc, 37composefs and others.
            ostree | *bootc* | *composefs*) _bootseal_refuse "$_module" "mounts the root without this check" ;;
        esac
    done
    # These are in an initrd only where somebody asked for them. A module comes before those that it depends on.
    for _module in ignition-ostree selinux masterkey integrity ecryptfs convertfs; do
        dracut_module_included "$_module" && _bootseal_refuse "$_module" "runs a file of the disk's /etc as root"
    done
    for _module in livenet dmsquash-live-autooverlay dmsquash-live overlayfs-crypt overlayfs lvmmerge kernel-modules-export ignition; do
        dracut_module_included "$_module" && _bootseal_refuse "$_module" "changes the verified root before the switch"
    done
    # fstab-sys mounts what the disk's /etc/fstab.sys says, nfs its rpc_pipefs where links in the disk's /var lead, overlay-root
    # an overlay over the root.
    for _module in usrmount resume fstab-sys nfs overlay-root; do
        # dracut installs modules by number, so these, which come later, can still be left out.
        mods_to_load=${mods_to_load// $_module / }
        [[ " $modules_loaded " == *" $_module "* ]] && _bootseal_refuse "$_module" "undoes the check"
    done
    return 0
}

_bootseal_refuse() {
    _bootseal_fatal "dracut module '$1' $2: omit_dracutmodules+=\" $1 \""
}

_bootseal_install_python() {
    local _site _out _source _target
    _site=$(/usr/bin/python3 -I -c 'import cryptography, os; print(os.path.dirname(os.path.dirname(cryptography.__file__)))' 2> /dev/null) \
        || _bootseal_fatal "Python module 'cryptography' not found: install python3-cryptography"
    _out=$(mktemp -d --tmpdir="$DRACUT_TMPDIR" bootseal.XXXXXX) || _bootseal_fatal "cannot make a directory in $DRACUT_TMPDIR"
    /usr/bin/python3 -ISB "$moddir/python-deps" "$_bootseal_libdir" "$_site" "$_out" > "$_out.objects" \
        || _bootseal_fatal "the boot path does not run on this machine's Python: see above"
    # Copied onto the initrd's own directories, whose modes they would replace: mktemp's 0700 must not become that of /.
    chmod -R u=rwX,go=rX "$_out"
    inst /usr/bin/python3 || _bootseal_fatal "cannot install python3"
    while read -r _source _target; do
        inst "$_source" "$_target" || _bootseal_fatal "cannot install $_source"
    done < "$_out.objects"
    # dracut looks for libraries at the end of the build, and for those of a file that is not executable in some versions
    # only; the check below runs what was installed.
    while read -r _source; do
        inst "$_source" || _bootseal_fatal "cannot install $_source"
    done < <({ echo /usr/bin/python3 && cut -d ' ' -f 1 "$_out.objects"; } | LD_PRELOAD='' xargs ldd \
        | sed -En 's/^\t(.* => )?(\/[^ ]+) \(0x[0-9a-f]+\)$/\2/p' | sort -u)
    cp -a --no-preserve=ownership "$_out/." "$initdir/" || _bootseal_fatal "cannot copy the Python modules"
    rm -rf "$_out" "$_out.objects"
}

_bootseal_install_configuration() {
    local _directory _file _os
    for _directory in /usr/lib /etc; do
        for _file in "$_directory"/{bootseal/bootseal.conf,bootseal/bootseal.conf.d/*.conf,ostree/prepare-root.conf} \
            "$_directory"/bootseal/keys.d/*.{crt,pem,cer,der}; do
            _bootseal_install_or_mask "$_file"
        done
    done
    # If several files name one, config.py knows which counts, and reads no other.
    while read -r _os; do
        [[ $_os == no ]] && continue
        for _file in {/etc,/usr/local/share,/usr/share}/voa/"$_os"/kernel-keyring/fs-verity/x509/*-certificate.pem; do
            _bootseal_install_or_mask "$_file"
        done
    done < <(sed -En 's/^[[:space:]]*VOA[[:space:]]*=[[:space:]]*(.*[^[:space:]])[[:space:]]*$/\1/p' \
        "$initdir"/{usr/lib,etc}/bootseal/{bootseal.conf,bootseal.conf.d/*.conf} 2> /dev/null | sort -u)
}

# A file where there is one; a link to /dev/null masks files of the same name.
_bootseal_install_or_mask() {
    [[ -e $1 || -L $1 ]] || return 0
    if [[ $(readlink -f "$1") == /dev/null ]]; then
        mkdir -p "$initdir${1%/*}" && ln -sf /dev/null "$initdir$1"
    else
        _bootseal_install_file "$1"
    fi
}

_bootseal_install_units() {
    local _unit
    inst_multiple -o "$systemdsystemunitdir/modprobe@.service"
    _bootseal_install_file "$systemdsystemunitdir/bootseal.service"
    _bootseal_install_file "$moddir/bootseal-guard.service" "$systemdsystemunitdir/bootseal-guard.service"
    _bootseal_install_file "$moddir/initrd-system.conf" /usr/lib/systemd/system.conf.d/50-bootseal.conf
    _bootseal_install_file "$moddir/keyring-setup-initrd.conf" \
        "$systemdsystemunitdir/systemd-keyring-setup.service.d/60-bootseal-initrd.conf"
    for _unit in emergency dracut-emergency; do
        _bootseal_install_file "$moddir/emergency.conf" "$systemdsystemunitdir/$_unit.service.d/50-bootseal.conf"
    done
    # Required, not wanted: without it the target is not reached.
    mkdir -p "$initdir$systemdsystemunitdir/initrd-root-fs.target.requires" "$initdir$systemdsystemunitdir/initrd.target.wants"
    ln_r "$systemdsystemunitdir/bootseal.service" "$systemdsystemunitdir/initrd-root-fs.target.requires/bootseal.service"
    ln_r "$systemdsystemunitdir/bootseal-guard.service" "$systemdsystemunitdir/initrd.target.wants/bootseal-guard.service"
}

# The last look: initrd-switch-root.service runs its command only if nothing was mounted or unmounted since the check.
_bootseal_install_last_look() {
    local _unit=$systemdsystemunitdir/initrd-switch-root.service _command
    inst_multiple findmnt sh || _bootseal_fatal "cannot install findmnt and sh"
    _bootseal_install_file "$moddir/last-look" /usr/lib/bootseal/last-look
    _command=$(sed -n 's/^ExecStart=//p' "$initdir$_unit")
    [[ $_command =~ ^[a-z/][A-Za-z0-9/_.=\ -]*$ ]] || _bootseal_fatal "cannot read the command of $_unit"
    mkdir -p "$initdir$_unit.d"
    sed "s|@COMMAND@|$_command|" "$moddir/initrd-switch-root.conf" > "$initdir$_unit.d/50-bootseal.conf"
}

# What others bring by themselves that would put something else in place of what was verified.
_bootseal_remove_bypasses() {
    local _hook
    rm -f "$initdir$systemdutildir"/system-generators/systemd-{debug,hibernate-resume}-generator \
        "$initdir$systemdsystemunitdir"/{,*.wants/,*.requires/}systemd-{sysext,confext}*.service \
        "$initdir"/etc/systemd/system/{,*.wants/,*.requires/}systemd-{sysext,confext}*.service
    # In every initrd where crypto-policies is installed, and before us. With fips=1 it mounts over the root what links in the
    # disk's /etc lead to.
    for _hook in "$initdir"/{var/lib,usr/lib,etc}/dracut/hooks/pre-pivot/*-fips-crypto-policies.sh; do
        [[ -e $_hook ]] || continue
        rm -f "$_hook"
        dwarn "bootseal: the hook of dracut module 'fips-crypto-policies' is left out: for fips=1, set the policy FIPS in the image"
    done
}

# The boot's own code reads the boot's own configuration and keyring, in the tree that was made.
_bootseal_check_result() {
    local _said _on_refusal _needed _option
    # What image builders preload (eatmydata, nosync) is not in the initrd, and the loader says so.
    _said=$(LD_PRELOAD='' chroot "$initdir" /usr/bin/python3 -ISB /usr/lib/bootseal check-initrd 2>&1) \
        || _bootseal_fatal "$_said"
    read -r _on_refusal _needed <<< "$_said"
    for _option in $_needed; do
        _bootseal_kernel_has "$_option" || _bootseal_fatal "kernel $kernel lacks CONFIG_$_option"
    done
    case $_on_refusal in
        emergency)
            dwarn "bootseal: a refused boot ends in the emergency target: a root shell, unless rd.shell=0 or [Policy] OnRefusal= says otherwise"
            ;;
        reboot | poweroff)
            for _option in bootseal.service bootseal-guard.service initrd-switch-root.service; do
                mkdir -p "$initdir$systemdsystemunitdir/$_option.d"
                printf '[Unit]\nOnFailure=\nFailureAction=%s-force\n' "$_on_refusal" \
                    > "$initdir$systemdsystemunitdir/$_option.d/50-on-refusal.conf"
            done
            ;;
        *) _bootseal_fatal "check of the initrd: $_said" ;;
    esac
}
