# shellcheck shell=bash
# A user whose environment has everything in it that could change what programs do. Sourced by tests.

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
