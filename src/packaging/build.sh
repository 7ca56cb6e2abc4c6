#!/bin/sh
# Makes a Debian package out of a binary that is built already.
#
#   src/packaging/build.sh [BINARY [FOLDER [VERSION]]]
#
# BINARY is target/release/ringkeep unless told otherwise, FOLDER target/packages, and VERSION that of the binary with
# -1 behind it. What a debugger wants lies beside the package, as ringkeep.debug. The manual page and the completions
# are what the binary prints. With SOURCE_DATE_EPOCH set, the same input makes the same package.
set -eu
cd "$(dirname "$0")/../.."
binary=${1:-target/release/ringkeep}
folder=${2:-target/packages}
here=src/packaging
version=${3:-$("$binary" --version | cut -d ' ' -f 2)-1}
arch=$(dpkg --print-architecture)
maintainer=$(sed -n 's/^Maintainer: //p' $here/control)
epoch=${SOURCE_DATE_EPOCH:-$(date +%s)}
export SOURCE_DATE_EPOCH=$epoch

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
umask 022
chmod 755 "$tree"
mkdir -p "$folder"

# put MODE FILE PATH: the file, or what is read, under this path of the package.
put() {
    mkdir -p "$tree/$(dirname "$3")"
    install -m "$1" "$2" "$tree/$3"
}

put 755 "$binary" usr/bin/ringkeep
objcopy --only-keep-debug "$binary" "$folder/ringkeep.debug"
strip --strip-unneeded --remove-section=.comment "$tree/usr/bin/ringkeep"
objcopy --add-gnu-debuglink="$folder/ringkeep.debug" "$tree/usr/bin/ringkeep"

put 644 $here/ringkeep.service lib/systemd/system/ringkeep.service
put 644 $here/ringkeep.toml etc/ringkeep/ringkeep.toml
mkdir -p "$tree/var/lib/ringkeep"

doc=usr/share/doc/ringkeep
put 644 $here/copyright $doc/copyright
put 644 $here/sysctl.conf $doc/examples/sysctl.conf
for page in access elections failover handoff migration operations settings; do
    [ ! -e src/docs/$page.md ] || put 644 src/docs/$page.md $doc/$page.md
done
put 644 CHANGELOG.md $doc/changelog
printf 'ringkeep (%s) unstable; urgency=medium\n\n  * What changed is in changelog.gz.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(LC_ALL=C date -u -R -d "@$epoch")" | put 644 /dev/stdin $doc/changelog.Debian
gzip -9n "$tree/$doc/changelog" "$tree/$doc/changelog.Debian"
put 644 $here/lintian-overrides usr/share/lintian/overrides/ringkeep

"$binary" man | put 644 /dev/stdin usr/share/man/man1/ringkeep.1
gzip -9n "$tree/usr/share/man/man1/ringkeep.1"
"$binary" completions bash | put 644 /dev/stdin usr/share/bash-completion/completions/ringkeep
"$binary" completions zsh | put 644 /dev/stdin usr/share/zsh/vendor-completions/_ringkeep
"$binary" completions fish | put 644 /dev/stdin usr/share/fish/vendor_completions.d/ringkeep.fish

mkdir "$tree/DEBIAN"
for script in postinst prerm postrm; do put 755 $here/$script DEBIAN/$script; done
(cd "$tree" && find etc -type f -printf '/%p\n' | sort) >"$tree/DEBIAN/conffiles"
(cd "$tree" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"

# The libraries that the binary wants, in the versions that it wants them. The tool looks for a source package.
mkdir -p "$tree/DEBIAN/source/debian"
: >"$tree/DEBIAN/source/debian/control"
libraries=$(cd "$tree/DEBIAN/source" && dpkg-shlibdeps -O -e"$tree/usr/bin/ringkeep" 2>/dev/null | cut -d = -f 2-)
rm -r "$tree/DEBIAN/source"
# A static binary wants none.
libraries=${libraries:+$libraries, }
size=$(du -k -s --exclude=DEBIAN "$tree" | cut -f 1)
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" -e "s/@SIZE@/$size/" -e "s/@LIBRARIES@/$libraries/" \
    $here/control >"$tree/DEBIAN/control"

package=$folder/ringkeep_${version}_$arch.deb
dpkg-deb --build --root-owner-group "$tree" "$package" >/dev/null
echo "$package"
