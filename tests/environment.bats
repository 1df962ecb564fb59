#!/usr/bin/env bats
# The user's environment doesn't leak in: everything hostile at once. What the programs print and write is the
# same, and nothing of the user's is written to.

load common

setup() {
	small_stack
	three_patches
}

# hostile COMMAND...: runs it so.
hostile() {
	local home=$BATS_TEST_TMPDIR/home

	mkdir -p "$home/.config/git" "$BATS_TEST_TMPDIR/elsewhere/scripts" "$BATS_TEST_TMPDIR/hooks"
	printf '#!/bin/sh\nexit 1\n' | tee "$BATS_TEST_TMPDIR/hooks/pre-commit" >"$BATS_TEST_TMPDIR/hooks/applypatch-msg"
	chmod +x "$BATS_TEST_TMPDIR"/hooks/*
	cat >"$home/.gitconfig" <<-E
		[format]
			coverLetter = auto
			attach = true
			signature = hello
			subjectPrefix = RFC
			noprefix = true
			signOff = true
			thread = shallow
			numbered = true
			suffix = .txt
			headers = "Organization: x"
		[diff]
			noprefix = true
			mnemonicPrefix = true
			algorithm = patience
			context = 1
			external = /bin/false
			relative = true
			suppressBlankEmpty = true
		[color]
			ui = always
		[core]
			abbrev = 8
			hooksPath = $BATS_TEST_TMPDIR/hooks
			autocrlf = true
			pager = false
			editor = false
			commentChar = auto
			fsmonitor = /bin/false
		[commit]
			gpgSign = true
		[rebase]
			autoSquash = true
			missingCommitsCheck = error
		[am]
			threeWay = true
		[log]
			showSignature = true
			decorate = full
		[status]
			short = true
			branch = true
		[apply]
			whitespace = fix
		[i18n]
			commitEncoding = ISO-8859-1
			logOutputEncoding = ISO-8859-1
		[merge]
			conflictStyle = diff3
		[rerere]
			enabled = true
		[user]
			name = Jürgen Ärger
			email = j@localhost
			useConfigOnly = true
	E
	cp "$home/.gitconfig" "$home/.config/git/config"
	echo --no-such-option | tee "$home/.checkpatch.conf" >"$home/.get_maintainer.conf"
	printf '[codespell]\nignore-words-list = teh\n' >"$home/.codespellrc"
	(
		umask 077
		mkdir -p "$BATS_TEST_TMPDIR/gnu"
		# shellcheck disable=SC2030
		export HOME=$home XDG_CONFIG_HOME=$home/.config GIT_CONFIG_GLOBAL=$home/.gitconfig GIT_DIR=/nowhere GIT_WORK_TREE=/nowhere \
			GIT_INDEX_FILE=/nowhere/index GIT_PAGER=false GIT_EDITOR=false GIT_EXTERNAL_DIFF=false GIT_COMMITTER_DATE=nonsense \
			CDPATH=.:$BATS_TEST_TMPDIR/elsewhere LC_ALL=de_DE.UTF-8 LANG=de_DE.UTF-8 LANGUAGE=de LLVM=1 CC=false KCFLAGS=-Dx=y W=3 ARCH=m68k \
			CROSS_COMPILE=no- MAKEFLAGS=--no-such-option GREP_OPTIONS=-v GREP_COLORS=x BASH_ENV=/dev/stdin ENV=/dev/null \
			POSIXLY_CORRECT=1 TAR_OPTIONS=--no-such PERL5OPT=-Mnonsense PYTHONPATH=/nowhere KBUILD_OUTPUT=/nowhere \
			TMPDIR=/no/such/place QUILT_PATCHES=elsewhere CHECKPATCH_CONFIG_DIR=$home
		unset GIT_COMMITTER_DATE
		cd "$home"
		"$@" </dev/null
	)
}

@test "export, apply, rebase, check: the same bytes, whatever git is set to" {
	cp -r "$PROJECT/patches" "$PROJECT/series" "$BATS_TEST_TMPDIR/"
	hostile "$STACK" export
	diff -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/patches"
	diff "$PROJECT/series" "$BATS_TEST_TMPDIR/series"
	[[ $(stat -c %a "$PROJECT/series") == 644 ]]
	back_to_base
	hostile "$STACK" apply
	[[ $(git -C "$LINUX" rev-list --count base..HEAD) == 3 ]]
	hostile "$STACK" export
	diff -r "$PROJECT/patches" "$BATS_TEST_TMPDIR/patches"
	[[ $(hostile "$STACK" status) == series ]]
	git -C "$LINUX" checkout -q --detach base
	sed -i 's/^line 5$/moved/' "$LINUX/virt/kvm/kvm_main.c"
	commit_all "$LINUX" newer
	git -C "$LINUX" tag -f base >/dev/null
	git -C "$LINUX" checkout -q stack
	run hostile "$STACK" rebase
	[[ $status == 0 && $output == *"3 of 3 commits"* ]]
	cmp "$BATS_TEST_TMPDIR/home/.gitconfig" "$BATS_TEST_TMPDIR/home/.config/git/config"
}

@test "send: diff.noprefix and color.ui keep no topic from being sent" {
	fake_maintainers
	hostile "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run
	grep -q '^+++ b/virt/kvm' "$BATS_TEST_TMPDIR/out"/0001*
	grep -qx 'Subject: \[PATCH 0/2\] KVM: Two' "$BATS_TEST_TMPDIR/out/0000-cover-letter.patch"
}

@test "check and send: checkpatch, codespell and get_maintainer as they come" {
	sed -i 's/^---$/Change teh line.\n---/' "$PROJECT"/patches/0001-*.patch
	# They look for their files where the kernel's own do.
	cat >"$LINUX/scripts/checkpatch.pl" <<-'E'
		for ($ENV{CHECKPATCH_CONFIG_DIR} // '.', $ENV{HOME}) { print "FILE:1: X:Y: $_\n" if -e "$_/.checkpatch.conf" }
	E
	run hostile "$STACK" check
	[[ $output == *"ok - checkpatch 0001-"* && $output != *"not ok - checkpatch"* ]] || { echo "$output"; false; }
	[[ $output == *"not ok - codespell 0001-"*"teh ==> the"* ]] || { echo "$output"; false; }
	fake_maintainers
	sed -i '2i [ ! -e ~/.get_maintainer.conf ] || exit 1' "$LINUX/scripts/get_maintainer.pl"
	hostile "$STACK" send two -o "$BATS_TEST_TMPDIR/out" --dry-run
	grep -qx 'To: M <maintainer@localhost>' "$BATS_TEST_TMPDIR/out/0001"*
}

@test "drift: the same words" {
	tree=$BATS_TEST_TMPDIR/newer
	mini_kernel "$tree"
	run "$STACK" drift --tree "$tree"
	plain=$output
	run hostile "$STACK" drift --tree "$tree"
	# The shell itself says so of a locale that is not there.
	diff <(grep -v setlocale <<<"$output") <(echo "$plain")
}

@test "the shell's own options, which POSIXLY_CORRECT would hide" {
	for _ in once again; do
		run env SHELLOPTS=noclobber:noglob BASHOPTS=failglob:nullglob:nocasematch:nocaseglob "$STACK" export
		[[ $status == 0 && $output == *"exported 3 patches"* ]] || { echo "$output"; false; }
	done
}

@test "no HOME at all" {
	run env -u HOME -u XDG_CACHE_HOME -u KVM_STACK_CACHE "$STACK" status
	[[ $status == 0 && $output == series ]]
}
