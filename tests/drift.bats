#!/usr/bin/env bats
# scripts/stack drift, shown on a kernel that is not the base: Debian stable's.

load common

readonly SUITE=trixie PACKAGE=linux-source-6.12

# other_kernel DIR: what of its tree the patches touch, and what makes it one. Kept beside the package, as
# unpacking that takes longer than all else here.
other_kernel() {
	local debs=$CACHE/deb/$PACKAGE.$SUITE kept

	kept=$debs/$(declare -f other_kernel | cksum | cut -d' ' -f1).tar
	mkdir -p "$1"
	[[ ! -f $kept ]] || { tar -xf "$kept" -C "$1"; return; }
	if ! ls "$debs"/*.deb >/dev/null 2>&1; then
		mkdir -p "$debs"
		(cd "$debs" && private_apt "$SUITE" apt-get update && private_apt "$SUITE" apt-get download "$PACKAGE") || return 1
	fi
	dpkg-deb --fsys-tarfile "$debs"/*.deb | tar -xOf - --wildcards './usr/src/linux-source-*.tar.xz' |
		tar -xJf - -C "$1" --strip-components=1 --wildcards '*/Kbuild' '*/Makefile' '*/MAINTAINERS' '*/virt' \
			'*/arch/x86/kvm' '*/arch/x86/include/asm' '*/arch/arm64/kvm' '*/arch/arm64/include/asm' '*/arch/riscv/kvm' \
			'*/include/linux' '*/include/trace' '*/mm' '*/lib/Kconfig.debug' \
			'*/tools/testing/selftests/kvm'
	tar -cf "$kept.new" -C "$1" .
	mv "$kept.new" "$kept"
}

@test "drift: on another kernel every patch is judged, and the tree is only read" {
	[[ -d $REAL_BUILD/linux/.git ]] || skip "no base tree: scripts/stack base"
	export KVM_STACK_BUILD=$REAL_BUILD
	. "$REAL/scripts/common.sh"
	trap - ERR
	tree=$BATS_TEST_TMPDIR/linux
	other_kernel "$tree"
	before=$(cd "$tree" && find . -type f -exec sha256sum {} + | sort | sha256sum)

	run "$REAL/scripts/stack" drift --tree "$tree"
	echo "$output"
	[[ $status == 0 || $status == 1 ]]
	[[ $(grep -cE '^(applies|3-way[*]?|conflicts|upstream) ' <<<"$output") == $(grep -c '\.patch$' "$REAL/series") ]]
	# Which they are changes with the series; that they are not all alike does not.
	[[ $output == *"3-way"* || $output == *"applies "* ]]
	[[ $output == *"conflicts "* ]]
	[[ $before == $(cd "$tree" && find . -type f -exec sha256sum {} + | sort | sha256sum) ]]
}
