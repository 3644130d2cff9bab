#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Installs the service that verifies the signed digest of a composefs root and then mounts it. See bootseal.service(8).
#
# dracut ignores the status of install(). install() exits dracut, because an initrd without the check must not be built.
#
# shellcheck disable=SC2154  # dracut sets initdir, systemdsystemunitdir and others

_bootseal_libdir=/usr/lib/bootseal

# Ends the build with a message.
_bootseal_fatal() {
    dfatal "bootseal: $*"
    exit 1
}

# inst_simple() ignores a missing file.
_bootseal_install_file() {
    inst_simple "$@" || _bootseal_fatal "cannot install $1"
}

# Succeeds if a kernel configuration option is y or m, or if the configuration is missing.
_bootseal_kernel_has() {
    local _file
    for _file in "/usr/lib/modules/$kernel/config" "/lib/modules/$kernel/config" "/boot/config-$kernel"; do
        [[ -r ${dracutsysrootdir-}$_file ]] || continue
        grep -q "^CONFIG_$1=[ym]" "${dracutsysrootdir-}$_file"
        return
    done
    dwarn "bootseal: cannot check CONFIG_$1: configuration of kernel $kernel not found"
}

# called by dracut
check() {
    require_binaries python3 findmnt "$systemdutildir"/systemd || return 1
    # On request only: add_dracutmodules+=" bootseal "
    return 255
}

# called by dracut
depends() {
    echo systemd systemd-initrd
}

# called by dracut
installkernel() {
    local _module
    # Without hostonly=, which selects the modules that this machine uses now. The next boot uses these.
    hostonly='' instmods erofs overlay loop
    # For the kernel's own check of the signature. Some kernels have some of these as modules.
    hostonly='' instmods -s ecdsa_generic ecdsa rsa_generic sha256_generic sha512_generic crypto_engine || :
    # PID 1 mounts efivarfs. Without it, the service cannot read the state of Secure Boot.
    hostonly='' instmods -s efivarfs || :
    for _module in erofs overlay; do
        # Look into the initrd, because omit_drivers+= may exclude a module.
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

# No other module may mount the root, and no module may mount or run anything from the disk after the check.
# host/initrd/bypasses.py recognizes the same modules by the files that they install.
_bootseal_check_modules() {
    local _module _file
    for _module in $modules_loaded $mods_to_load; do
        case $_module in
            # Names differ between projects: 51bootc, 37composefs and others.
            ostree | *bootc* | *composefs*) _bootseal_refuse "$_module" "mounts the root without this check" ;;
        esac
    done
    # Whichever module installed these units.
    while read -r _file; do
        _bootseal_fatal "${_file#"$initdir"} mounts the root without this check: leave it out of the initrd"
    done < <(find "$initdir"/{usr/lib,lib,etc}/systemd/system \( -name ostree-prepare-root.service -o -name bootc-root-setup.service \
        -o -name composefs-setup-root.service \) ! -lname /dev/null 2> /dev/null)
    # Users request these modules explicitly. A module comes before its own dependencies, so that the message names it.
    for _module in ignition-ostree selinux masterkey integrity ecryptfs convertfs; do
        dracut_module_included "$_module" && _bootseal_refuse "$_module" "runs a file of the disk's /etc as root"
    done
    for _module in livenet dmsquash-live-autooverlay dmsquash-live overlayfs-crypt overlayfs lvmmerge kernel-modules-export ignition; do
        dracut_module_included "$_module" && _bootseal_refuse "$_module" "changes the verified root before the switch"
    done
    # fstab-sys mounts the entries of the disk's /etc/fstab.sys. nfs mounts rpc_pipefs where links in the disk's /var lead.
    # overlay-root mounts an overlay over the root.
    for _module in usrmount resume fstab-sys nfs overlay-root; do
        # dracut installs modules by number. These come later, so they can still be omitted.
        mods_to_load=${mods_to_load// $_module / }
        [[ " $modules_loaded " == *" $_module "* ]] && _bootseal_refuse "$_module" "undoes the check"
    done
    return 0
}

_bootseal_refuse() {
    _bootseal_fatal "dracut module '$1' $2: omit_dracutmodules+=\" $1 \""
}

# Prints the path of libcrypto: that of kmod, which dracut installs in any case, or that of Python.
_bootseal_find_libcrypto() {
    local _file
    for _file in "$(type -P kmod)" "$(/usr/bin/python3 -I -c 'import _hashlib; print(_hashlib.__file__)' 2> /dev/null)"; do
        [[ $_file ]] && _bootseal_list_libraries <<< "$_file" | grep -m 1 '/libcrypto\.so' && return
    done
    return 1
}

# Prints the paths of the libraries of the files on stdin.
_bootseal_list_libraries() {
    LD_PRELOAD='' xargs ldd | sed -En 's/^\t(.* => )?(\/[^ ]+) \(0x[0-9a-f]+\)$/\2/p' | sort -u
}

_bootseal_install_python() {
    local _libcrypto _out _source _target
    /usr/bin/python3 -I -c 'import cryptography' 2> /dev/null \
        || _bootseal_fatal "Python module 'cryptography' not found: install python3-cryptography"
    _libcrypto=$(_bootseal_find_libcrypto) || _bootseal_fatal "libcrypto not found: install OpenSSL 3 or later"
    _out=$(mktemp -d --tmpdir="$DRACUT_TMPDIR" bootseal.XXXXXX) || _bootseal_fatal "cannot make a directory in $DRACUT_TMPDIR"
    /usr/bin/python3 -ISB "$moddir/python-deps" "$_bootseal_libdir" "$_libcrypto" "$_out" "${dracutsysrootdir-}" > "$_out.objects" \
        || _bootseal_fatal "the boot path does not run on this machine's Python: see above"
    echo "$_libcrypto $_libcrypto" >> "$_out.objects"
    # The copy below replaces the modes of the initrd's own directories: mktemp's 0700 must not become that of /.
    chmod -R u=rwX,go=rX "$_out"
    inst /usr/bin/python3 || _bootseal_fatal "cannot install python3"
    while read -r _source _target; do
        inst "$_source" "$_target" || _bootseal_fatal "cannot install $_source"
    done < "$_out.objects"
    # dracut resolves libraries at the end of the build, and in some versions only those of executable files. The check below
    # needs them now.
    while read -r _source; do
        inst "$_source" || _bootseal_fatal "cannot install $_source"
    done < <({ echo /usr/bin/python3 && cut -d ' ' -f 1 "$_out.objects"; } | _bootseal_list_libraries)
    cp -a --no-preserve=ownership "$_out/." "$initdir/" || _bootseal_fatal "cannot copy the Python modules"
    rm -rf "$_out" "$_out.objects"
    # libcrypto.py knows this name, because that of the library depends on OpenSSL's version.
    ln_r "$_libcrypto" /usr/lib/bootseal/libcrypto.so
}

_bootseal_install_configuration() {
    local _directory _file _os
    for _directory in /usr/lib /etc; do
        for _file in "$_directory"/{bootseal/bootseal.conf,bootseal/bootseal.conf.d/*.conf,ostree/prepare-root.conf} \
            "$_directory"/bootseal/keys.d/*.{crt,pem,cer,der}; do
            _bootseal_install_or_mask "$_file"
        done
    done
    # How bootc mounts the root, see bootc-setup-root-conf.toml(5).
    _bootseal_install_or_mask /usr/lib/composefs/setup-root-conf.toml
    # If several files set VOA=, config.py knows which one counts.
    while read -r _os; do
        [[ $_os == no ]] && continue
        for _file in {/etc,/usr/local/share,/usr/share}/voa/"$_os"/kernel-keyring/fs-verity/x509/*-certificate.pem; do
            _bootseal_install_or_mask "$_file"
        done
    done < <(sed -En 's/^[[:space:]]*VOA[[:space:]]*=[[:space:]]*(.*[^[:space:]])[[:space:]]*$/\1/p' \
        "$initdir"/{usr/lib,etc}/bootseal/{bootseal.conf,bootseal.conf.d/*.conf} 2> /dev/null | sort -u)
}

# Installs a file if it exists. A link to /dev/null masks files of the same name.
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
    _bootseal_install_file "$systemdsystemunitdir/bootseal.service"
    _bootseal_install_file "$moddir/bootseal-guard.service" "$systemdsystemunitdir/bootseal-guard.service"
    _bootseal_install_file "$moddir/initrd-system.conf" /usr/lib/systemd/system.conf.d/50-bootseal.conf
    _bootseal_install_file "$moddir/keyring-setup-initrd.conf" \
        "$systemdsystemunitdir/systemd-keyring-setup.service.d/60-bootseal-initrd.conf"
    for _unit in emergency dracut-emergency; do
        _bootseal_install_file "$moddir/emergency.conf" "$systemdsystemunitdir/$_unit.service.d/50-bootseal.conf"
    done
    # Required, because the target must not be reached without it.
    mkdir -p "$initdir$systemdsystemunitdir/initrd-root-fs.target.requires" "$initdir$systemdsystemunitdir/initrd.target.wants"
    ln_r "$systemdsystemunitdir/bootseal.service" "$systemdsystemunitdir/initrd-root-fs.target.requires/bootseal.service"
    ln_r "$systemdsystemunitdir/bootseal-guard.service" "$systemdsystemunitdir/initrd.target.wants/bootseal-guard.service"
}

# With the last look, initrd-switch-root.service runs its command only if the mounts are unchanged since the check.
_bootseal_install_last_look() {
    local _unit=$systemdsystemunitdir/initrd-switch-root.service _command
    inst_multiple findmnt sh || _bootseal_fatal "cannot install findmnt and sh"
    _bootseal_install_file "$moddir/last-look" /usr/lib/bootseal/last-look
    _command=$(sed -n 's/^ExecStart=//p' "$initdir$_unit")
    [[ $_command =~ ^[a-z/][A-Za-z0-9/_.=\ -]*$ ]] || _bootseal_fatal "cannot read the command of $_unit"
    mkdir -p "$initdir$_unit.d"
    sed "s|@COMMAND@|$_command|" "$moddir/initrd-switch-root.conf" > "$initdir$_unit.d/50-bootseal.conf"
}

# Other modules install these without a request. They would replace parts of the verified root.
_bootseal_remove_bypasses() {
    local _hook
    rm -f "$initdir$systemdutildir"/system-generators/systemd-{debug,hibernate-resume}-generator \
        "$initdir$systemdsystemunitdir"/{,*.wants/,*.requires/}systemd-{sysext,confext}*.service \
        "$initdir"/etc/systemd/system/{,*.wants/,*.requires/}systemd-{sysext,confext}*.service
    # The hook is in every initrd where crypto-policies is installed. With fips=1, it mounts over the root the targets of links
    # in the disk's /etc.
    for _hook in "$initdir"/{var/lib,usr/lib,etc}/dracut/hooks/pre-pivot/*-fips-crypto-policies.sh; do
        [[ -e $_hook ]] || continue
        rm -f "$_hook"
        dwarn "bootseal: the hook of dracut module 'fips-crypto-policies' is left out: for fips=1, set the policy FIPS in the image"
    done
}

# Runs the boot's own code in the new tree, which reads its configuration and keyring.
_bootseal_check_result() {
    local _said _difference _on_refusal _needed _option
    # Image builders preload libraries (eatmydata, nosync) that are missing in the initrd. The loader would complain.
    _said=$(LD_PRELOAD='' chroot "$initdir" /usr/bin/python3 -ISB /usr/lib/bootseal check-initrd 2>&1) \
        || _bootseal_fatal "$_said"
    # Another reader of certificates must agree. cryptography fails without a provider of old algorithms unless this is set.
    _difference=$(CRYPTOGRAPHY_OPENSSL_NO_LEGACY=1 /usr/bin/python3 -IB "$_bootseal_libdir" check-keyring "$initdir" "${dracutsysrootdir:-/}" 2>&1) \
        || _bootseal_fatal "$_difference"
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
