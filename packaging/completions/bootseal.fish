# SPDX-License-Identifier: LGPL-2.1-or-later
# fish completion for bootseal(8). 'make completions' writes what is between the marks.

# The physical root, as the program finds it.
function __bootseal_sysroot
    test -d /sysroot/ostree; and echo /sysroot; or echo /
end

# Names of the disk are offered only in the one form that a deployment's has. ("string" would read from the terminal if it
# were given nothing.)
function __bootseal_deployments
    set -l directories (__bootseal_sysroot)/ostree/deploy/*/deploy/*.*/
    string match -r -- '(?<=/)[0-9a-f]{64}\.[0-9]+(?=/$)' / $directories
    printf '%s\n' pending booted
end

# fish's own helper expects no "--option=" before the directory.
function __bootseal_directories
    __fish_complete_directories (commandline -ct | string replace -r -- '^--[a-z-]+=' '')
end

# Whether this command was typed: "bootseal" if none was yet, "--" for the COMMAND of sign --ephemeral=.
function __bootseal_in
    set -l words (commandline -opc)
    set -l command bootseal
    for word in $words[2..]
        switch $word
            case --
                set command --
                break
            case '-*'
            case '*'
                test $command = bootseal; and set command $word
        end
    end
    contains -- $command $argv
end

complete -c bootseal -f
# generated: begin
complete -c bootseal -n '__bootseal_in bootseal' -a status -d 'show what verified this boot, what the signature does not cover, and what has changed since'
complete -c bootseal -n '__bootseal_in bootseal' -a sign -d 'make IMAGE.digest and IMAGE.sig for a composefs image'
complete -c bootseal -n '__bootseal_in bootseal' -a import -d 'convert a signature of another program, and put it beside a composefs image'
complete -c bootseal -n '__bootseal_in bootseal' -a deploy -d 'put digest and signature into a deployment, and enable fs-verity'
complete -c bootseal -n '__bootseal_in bootseal' -a verify -d 'check whether a deployment would boot, and what it would lack'
complete -c bootseal -n '__bootseal_in bootseal' -a gate -d 'refuse a staged deployment that would not boot (run by the units of ostree and bootc that finalize it)'
complete -c bootseal -n '__bootseal_in bootseal' -s h -l help -d 'show this help message and exit'
complete -c bootseal -n '__bootseal_in bootseal' -l version -d 'show program\'s version number and exit'
complete -c bootseal -n '__bootseal_in status' -s h -l help -d 'show this help message and exit'
complete -c bootseal -n '__bootseal_in status' -l json -x -a 'pretty short off' -d 'print data as JSON (default: off)'
complete -c bootseal -n '__bootseal_in sign' -F
complete -c bootseal -n '__bootseal_in sign' -s h -l help -d 'show this help message and exit'
complete -c bootseal -n '__bootseal_in sign' -l json -x -a 'pretty short off' -d 'print data as JSON (default: off)'
complete -c bootseal -n '__bootseal_in sign' -l repo -x -a '(__bootseal_directories)' -d 'sign a commit of this ostree repository: IMAGE is a checksum or branch'
complete -c bootseal -n '__bootseal_in sign' -l also-in-commit -d 'commit the tree again with the signature in its metadata, for \'ostree container encapsulate --copymeta\''
complete -c bootseal -n '__bootseal_in sign' -l key -r -F -d 'private key, PEM or DER, RSA or ECDSA; or a PKCS#11 URI (pkcs11:...)'
complete -c bootseal -n '__bootseal_in sign' -l cert -r -F -d 'its certificate, PEM or DER'
complete -c bootseal -n '__bootseal_in sign' -l passphrase-file -r -F -d 'the key\'s passphrase, or the token\'s PIN (default: asked for)'
complete -c bootseal -n '__bootseal_in sign' -l algorithm -x -a 'sha256 sha512' -d 'of the image\'s fs-verity digest (default: sha256)'
complete -c bootseal -n '__bootseal_in sign' -l digest -x -d 'the image\'s fs-verity digest, when the image is not here'
complete -c bootseal -n '__bootseal_in sign' -l to-be-signed -r -F -d 'write the bytes to sign (- for stdout), and nothing else'
complete -c bootseal -n '__bootseal_in sign' -l signature -r -F -d 'the bare signature over them; with --cert'
complete -c bootseal -n '__bootseal_in sign' -l ephemeral -x -a '(__bootseal_directories)' -d 'write its certificate to DIR/ephemeral.crt, run COMMAND, sign IMAGE'
complete -c bootseal -n '__bootseal_in import' -F
complete -c bootseal -n '__bootseal_in import' -s h -l help -d 'show this help message and exit'
complete -c bootseal -n '__bootseal_in import' -l json -x -a 'pretty short off' -d 'print data as JSON (default: off)'
complete -c bootseal -n '__bootseal_in import' -l image -r -F -d 'composefs image; FILE.digest and FILE.sig are written beside it'
complete -c bootseal -n '__bootseal_in import' -l digest -r -F -d 'IMAGE.digest, if the image is elsewhere; writes IMAGE.sig'
complete -c bootseal -n '__bootseal_in import' -l algorithm -x -a 'sha256 sha512' -d 'of the image\'s digest (default: sha256)'
complete -c bootseal -n '__bootseal_in import' -l keys -x -a '(__bootseal_directories)' -d 'directory with certificates to trust'
complete -c bootseal -n '__bootseal_in import' -l cert -r -F -d 'certificates to trust'
complete -c bootseal -n '__bootseal_in deploy' -a '(__bootseal_deployments)'
complete -c bootseal -n '__bootseal_in deploy' -s h -l help -d 'show this help message and exit'
complete -c bootseal -n '__bootseal_in deploy' -l json -x -a 'pretty short off' -d 'print data as JSON (default: off)'
complete -c bootseal -n '__bootseal_in deploy' -l digest -r -F -d 'the digest file that \'bootseal sign\' made (default: computed from the deployment\'s image)'
complete -c bootseal -n '__bootseal_in deploy' -l signature -r -F -d 'the signature that \'bootseal sign\' made (default: the first one of the commit that the boot accepts)'
complete -c bootseal -n '__bootseal_in deploy' -l all -d 'complete every deployment that can boot'
complete -c bootseal -n '__bootseal_in deploy' -l objects -d 'also enable fs-verity on the image\'s objects where it is off'
complete -c bootseal -n '__bootseal_in deploy' -l offline -d 'do not enable fs-verity; the target must, before its first boot'
complete -c bootseal -n '__bootseal_in deploy' -l sysroot -x -a '(__bootseal_directories)' -d 'physical root (default: the running system\'s)'
complete -c bootseal -n '__bootseal_in deploy' -l initrd -r -F -d 'initrd or UKI to take keys and configuration from (default: the deployment\'s own)'
complete -c bootseal -n '__bootseal_in deploy' -l keys -x -a '(__bootseal_directories)' -d 'directory with certificates to use instead'
complete -c bootseal -n '__bootseal_in deploy' -l system-keys -d 'certificates and configuration of the running system'
complete -c bootseal -n '__bootseal_in verify' -a '(__bootseal_deployments)'
complete -c bootseal -n '__bootseal_in verify' -s h -l help -d 'show this help message and exit'
complete -c bootseal -n '__bootseal_in verify' -l json -x -a 'pretty short off' -d 'print data as JSON (default: off)'
complete -c bootseal -n '__bootseal_in verify' -l all -d 'every deployment, as a table'
complete -c bootseal -n '__bootseal_in verify' -l sysroot -x -a '(__bootseal_directories)' -d 'physical root (default: the running system\'s)'
complete -c bootseal -n '__bootseal_in verify' -l initrd -r -F -d 'initrd or UKI to take keys and configuration from (default: the deployment\'s own)'
complete -c bootseal -n '__bootseal_in verify' -l keys -x -a '(__bootseal_directories)' -d 'directory with certificates to use instead'
complete -c bootseal -n '__bootseal_in verify' -l system-keys -d 'certificates and configuration of the running system'
complete -c bootseal -n '__bootseal_in verify' -l cmdline -x -d 'kernel command line (default: that of the deployment\'s boot entry)'
complete -c bootseal -n '__bootseal_in verify' -s v -l verbose -d 'what the signature names, and each deviation by name'
complete -c bootseal -n '__bootseal_in verify' -l signature -r -F -d 'the signature (default: that beside --image=)'
complete -c bootseal -n '__bootseal_in verify' -l digest -r -F -d 'the digest file (default: that beside --image=, or computed)'
complete -c bootseal -n '__bootseal_in verify' -l image -r -F -d 'composefs image, whose digest is computed and compared'
complete -c bootseal -n '__bootseal_in verify' -l repo -x -a '(__bootseal_directories)' -d 'ostree repository; DEPLOYMENT is a commit there, by checksum or branch'
complete -c bootseal -n '__bootseal_in verify' -l cert -r -F -d 'certificates to trust'
complete -c bootseal -n '__bootseal_in verify' -l signed -x -a 'digest-file image' -d 'what the signature covers (default: digest-file)'
complete -c bootseal -n '__bootseal_in gate' -s h -l help -d 'show this help message and exit'
complete -c bootseal -n '__bootseal_in gate' -l json -x -a 'pretty short off' -d 'print data as JSON (default: off)'
# generated: end
# The COMMAND's own completion is not asked, because that may run a program.
complete -c bootseal -n '__bootseal_in --' -F -a '(__fish_complete_command)'
