#!/usr/bin/env bats
# ci/debian, with a stand-in for debootstrap that makes a chroot of busybox.

bats_require_minimum_version 1.5.0
load common

setup() {
	((EUID == 0)) || skip "a chroot takes root"
	copy_project
	export KVM_STACK_BUILD=$BATS_TEST_TMPDIR/build KVM_STACK_CACHE=$BATS_TEST_TMPDIR/cache
	DEBIAN=$PROJECT/ci/debian
	# There is no room to be had for a Debian, nor any need for it.
	sed -i '/need_disk/d' "$DEBIAN"
	git init -q "$PROJECT"
	commit_all "$PROJECT" all
	mkdir "$BATS_TEST_TMPDIR/bin"
	PATH=$BATS_TEST_TMPDIR/bin:$PATH
	cat >"$BATS_TEST_TMPDIR/bin/debootstrap" <<-'E'
		#!/bin/bash
		echo "$*" >>"$BATS_TEST_TMPDIR/called"
		dir=${@: -2:1}
		mkdir -p "$dir"/{proc,dev,sys,tmp,root,bin,etc/apt/apt.conf.d}
		[[ -e $BATS_TEST_TMPDIR/works ]] || { echo "E: no such suite"; exit 1; }
		cp "$(command -v busybox)" "$dir/bin/busybox"
		for applet in sh cat env ls; do ln -s busybox "$dir/bin/$applet"; done
	E
	chmod +x "$BATS_TEST_TMPDIR/bin/debootstrap"
	export BATS_TEST_TMPDIR
}

@test "debian: wrong usage" {
	run -2 "$DEBIAN"
	run -2 "$DEBIAN" --trixie make run
	run -2 "$DEBIAN" trixie
	[[ $output == *"give a command"* ]]
	run -2 "$DEBIAN" ../trixie make run
	[[ ! -e $KVM_STACK_BUILD/debian ]]
}

@test "debian: one that can't be made says why, and leaves nothing that counts as one" {
	run -3 "$DEBIAN" trixie cat BASE
	[[ $output == *"cannot make a Debian trixie: E: no such suite"* ]]
	touch "$BATS_TEST_TMPDIR/works"
	run -0 "$DEBIAN" trixie cat BASE
	[[ $output == *"$(cat "$PROJECT/BASE")"* ]]
}

@test "debian: runs what is committed, where it doesn't see this machine, and exits as it does" {
	touch "$BATS_TEST_TMPDIR/works" "$PROJECT/not-committed"
	SECRET=1 run -7 "$DEBIAN" trixie sh -c 'ls; env; exit 7'
	[[ $output == *series* && $output == *HOME=/root* ]]
	[[ $output != *not-committed* && $output != *SECRET* && $output != *"$BATS_TEST_TMPDIR/bin"* ]]

	commit_all "$PROJECT" more
	run -0 "$DEBIAN" trixie ls
	[[ $output == *not-committed* ]]
	[[ $(wc -l <"$BATS_TEST_TMPDIR/called") == 1 ]]
	run -0 cat /proc/mounts
	[[ $output != *"$KVM_STACK_BUILD"* ]]
}

@test "debian: one at a time" {
	touch "$BATS_TEST_TMPDIR/works"
	mkdir -p "$KVM_STACK_BUILD/debian"
	touch "$KVM_STACK_BUILD/.kvm-mmu-stack"
	exec 8>"$KVM_STACK_BUILD/debian/trixie.lock"
	flock 8
	run -3 "$DEBIAN" trixie ls 8>&-
	[[ $output == *"is in use"* ]]
}

@test "debian: whoever ends it ends what runs there, and it can be had again" {
	touch "$BATS_TEST_TMPDIR/works"
	"$DEBIAN" trixie sh -c 'touch /began; while :; do busybox sleep 1; done' 3>&- &
	for ((i = 0; i < 300; i++)); do
		[[ ! -e $KVM_STACK_BUILD/debian/trixie/began ]] || break
		sleep 0.1
	done
	kill $!
	code=0
	wait $! || code=$?
	((code == 130))
	run -0 "$DEBIAN" trixie ls
	refute pgrep -f 'touch /began; while'
}
