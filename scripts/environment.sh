# shellcheck shell=bash
# What comes through of the caller's environment. Sourced by scripts/common.sh and the tests, first
# of all: whatever changes what git, make, a compiler, sort, or the shell itself print, write or ask
# is cleared here, and nowhere else. What is kept: PATH (a compiler cache may come first there), the
# cache's own variables, proxies, KVM_*, and who the user is.

# POSIXLY_CORRECT is bash's own mode, too; functions of the caller's would be called for programs; an
# exported SHELLOPTS or BASHOPTS reaches every bash below.
set +o posix +o noclobber +o noglob
shopt -u failglob nullglob nocaseglob nocasematch dotglob
unset CDPATH BASH_ENV ENV POSIXLY_CORRECT GLOBIGNORE
while read -r _ _ name; do
	[[ $name == bats_* ]] || unset -f "$name"
done < <(declare -Fx)
umask 022
export LC_ALL=C.UTF-8
unset LANGUAGE

[[ ${HOME-} ]] || unset HOME
export HOME=${HOME-~}
# Compilers, sort and mktemp want one that is there.
[[ ${TMPDIR-} =~ ^/[^[:space:]]*$ && -w $TMPDIR ]] || unset TMPDIR

unset GREP_OPTIONS GREP_COLOR GREP_COLORS TAR_OPTIONS XZ_OPT XZ_DEFAULTS GZIP BASH_COMPAT \
	PERL5OPT PERL5LIB PERL_UNICODE PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONWARNINGS PYTHONOPTIMIZE \
	QUILT_PATCHES QUILT_SERIES QUILT_PATCH_OPTS CHECKPATCH_CONFIG_DIR SHELLCHECK_OPTS CMDLINE
# make's and kbuild's, a caller's make -j included.
unset MAKEFLAGS MFLAGS GNUMAKEFLAGS MAKEOVERRIDES MAKEFILES MAKELEVEL W V C M O ARCH SUBARCH SRCARCH \
	CROSS_COMPILE CROSS_COMPILE_COMPAT LOCALVERSION EXTRAVERSION LLVM LLVM_IAS KCFLAGS KCPPFLAGS KAFLAGS \
	KRUSTFLAGS KDOCFLAGS CC CXX CPP AS LD AR NM STRIP OBJCOPY OBJDUMP READELF HOSTCC HOSTCXX HOSTLD HOSTAR \
	HOSTCFLAGS HOSTCXXFLAGS HOSTLDFLAGS HOSTLDLIBS HOSTPKG_CONFIG USERCFLAGS USERLDFLAGS CFLAGS CXXFLAGS \
	CPPFLAGS LDFLAGS EXTRA_CFLAGS LEX YACC DESTDIR OUTPUT KHDR_INCLUDES INSTALL_PATH INSTALL_MOD_PATH \
	INSTALL_HDR_PATH SOURCE_DATE_EPOCH
# gcc's own.
unset CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH LIBRARY_PATH COMPILER_PATH GCC_EXEC_PREFIX \
	DEPENDENCIES_OUTPUT SUNPRO_DEPENDENCIES GCC_COLORS
for name in "${!KBUILD_@}" "${!KCONFIG_@}" "${!CONFIG_@}"; do
	unset "$name"
done

# no_dotfiles COMMAND...: without the user's .checkpatch.conf, .get_maintainer.conf, .quiltrc and the like.
# Everything else may need its home, for what is installed or cached there.
no_dotfiles() {
	env HOME=/nonexistent XDG_CONFIG_HOME=/nonexistent "$@"
}

# Git reads neither the user's configuration nor the system's, but for who the user is and which
# directories of others' are trusted. Settings given this way outrank those of the repository.
# setting KEY VALUE
setting() {
	export "GIT_CONFIG_KEY_$GIT_CONFIG_COUNT=$1" "GIT_CONFIG_VALUE_$GIT_CONFIG_COUNT=$2"
	GIT_CONFIG_COUNT=$((GIT_CONFIG_COUNT + 1))
}

clean_git() {
	local kept key value name='' email=''

	kept=$(git config --get-regexp '^(user\.(name|email)|safe\.directory)$' 2>/dev/null || true)
	for key in "${!GIT_@}"; do
		[[ $key =~ ^GIT_(AUTHOR|COMMITTER)_(NAME|EMAIL|DATE)$ ]] || unset "$key"
	done
	export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0
	export GIT_PAGER=cat GIT_EDITOR=: GIT_CONFIG_COUNT=0
	while read -r key value; do
		case $key in
		user.name) name=$value ;;
		user.email) email=$value ;;
		safe.directory) setting "$key" "$value" ;;
		esac
	done <<<"$kept"
	# Git wants to know who commits, even for what is undone or folded away at once.
	export GIT_COMMITTER_NAME=${GIT_COMMITTER_NAME:-${name:-kvm-mmu-stack}}
	export GIT_COMMITTER_EMAIL=${GIT_COMMITTER_EMAIL:-${email:-stack@localhost}}
	export GIT_AUTHOR_NAME=${GIT_AUTHOR_NAME:-$GIT_COMMITTER_NAME}
	export GIT_AUTHOR_EMAIL=${GIT_AUTHOR_EMAIL:-$GIT_COMMITTER_EMAIL}

	while read -r key value; do
		setting "$key" "$value"
	done <<-'SETTINGS'
		core.autocrlf false
		core.quotePath true
		core.abbrev auto
		core.hooksPath /dev/null
		core.fsmonitor false
		core.excludesFile /dev/null
		core.attributesFile /dev/null
		core.commentChar #
		color.ui false
		advice.detachedHead false
		gc.auto 0
		maintenance.auto false
		commit.gpgSign false
		tag.gpgSign false
		tag.forceSignAnnotated false
		i18n.commitEncoding UTF-8
		i18n.logOutputEncoding UTF-8
		init.defaultBranch stack
		status.showUntrackedFiles normal
		status.relativePaths true
		log.showSignature false
		diff.noprefix false
		diff.mnemonicPrefix false
		diff.relative false
		diff.algorithm myers
		diff.indentHeuristic true
		diff.renames true
		diff.context 3
		diff.interHunkContext 0
		diff.suppressBlankEmpty false
		diff.orderFile /dev/null
		apply.ignoreWhitespace no
		am.keepcr false
		am.threeWay false
		mailinfo.scissors false
		merge.conflictStyle merge
		merge.renames true
		rerere.enabled false
		rebase.autoSquash false
		rebase.autoStash false
		rebase.updateRefs false
		format.coverLetter false
		format.coverFromDescription message
		format.thread false
		format.signOff false
		format.notes false
		format.numbered auto
		format.suffix .patch
		format.filenameMaxLength 64
		format.useAutoBase false
		format.encodeEmailHeaders true
		format.forceInBodyFrom false
		format.from false
		format.pretty medium
		format.subjectPrefix PATCH
		format.mboxrd false
		sequence.editor :
	SETTINGS
}

if command -v git >/dev/null; then
	clean_git
fi
unset -f clean_git setting
unset name
