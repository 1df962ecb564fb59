# shellcheck shell=bash
# scripts/stack base [--tree DIR] - provide the base tree
#
# The newest package that BASE names, downloaded and signature-checked with an apt configuration of
# its own, as a git work tree in build/linux (tag "base", branch "stack"). If it is newer than the
# base that is there, the tag moves, and commits stay: scripts/stack rebase takes them along.
#
# With --tree: record DIR's HEAD as the base of that tree (tag "stack-base"), for apply, rebase,
# export and send --tree.

# Prints the path of the newest base package, downloading it if need be.
fetch_base_package() {
	local package suite deb version log=$BUILD/apt/log

	package=$(base_value package)
	suite=$(base_value suite)
	mkdir -p "$BUILD/apt" "$CACHE/deb"
	if ! private_apt "$suite" apt-get update >"$log" 2>&1 || grep -q '^[WE]: Failed to fetch' "$log"; then
		deb=$(find "$CACHE/deb" -name "${package}_*_all.deb" | sort -V | tail -n 1)
		[[ $deb ]] || die $E_ENV "no network and no $package in $CACHE/deb: $(apt_error "$log")"
		say "no network: using $(basename "$deb") from the cache"
		printf '%s\n' "$deb"
		return
	fi
	version=$(private_apt "$suite" apt-cache policy "$package" | sed -n 's/^ *Candidate: //p') || true
	[[ $version && $version != "(none)" ]] ||
		die $E_ENV "$suite has no $package any more: name another package in BASE"
	deb=$CACHE/deb/${package}_${version//:/%3a}_all.deb
	if [[ ! -f $deb ]]; then
		say "downloading $package $version from $suite"
		rm -rf "$BUILD/apt/download" && mkdir "$BUILD/apt/download"
		(cd "$BUILD/apt/download" && private_apt "$suite" apt-get download "$package" >"$log" 2>&1) ||
			die $E_ENV "cannot download $package: $(apt_error "$log")"
		# The cache may be on another file system.
		mv "$BUILD/apt/download/"*.deb "$deb.new"
		mv "$deb.new" "$deb"
	fi
	printf '%s\n' "$deb"
}

# import_tree DIR WORDS: commits all of DIR, which is no work tree yet, and prints the commit.
# GIT_DIR says where to. Same bytes in, same commit out.
import_tree() {
	local tree

	# The tarball's own .gitignore ignores everything at the top level, hence -f.
	GIT_WORK_TREE=$1 GIT_INDEX_FILE=$BUILD/import.index git add -A -f .
	tree=$(GIT_INDEX_FILE=$BUILD/import.index git write-tree)
	printf '%s\n' "$2" |
		GIT_AUTHOR_NAME=base GIT_AUTHOR_EMAIL=base@localhost GIT_AUTHOR_DATE='2000-01-01T00:00:00Z' \
		GIT_COMMITTER_NAME=base GIT_COMMITTER_EMAIL=base@localhost GIT_COMMITTER_DATE='2000-01-01T00:00:00Z' \
		git commit-tree "$tree"
}

verb_base() {
	local tree='' deb version src commit

	while (($#)); do
		case $1 in
		--tree) tree=${2-}; shift 2 || die $E_USAGE "--tree wants a directory" ;;
		*) die $E_USAGE "base: unknown option '$1'" ;;
		esac
	done

	if [[ $tree ]]; then
		need_tree "$tree"
		need_clean "$tree"
		git -C "$tree" tag -f stack-base HEAD >/dev/null
		say "base of $tree is $(git -C "$tree" log -1 --format='%h %s' HEAD)"
		return
	fi

	if ! command -v apt-get || ! command -v dpkg-deb; then
		die $E_ENV "the base is a package of Debian's, and this machine has no apt-get and dpkg-deb to get it with: use a kernel tree of yours, scripts/stack apply --tree DIR"
	fi >/dev/null
	need_packages git xz
	need_disk 4000 "the base tree"
	deb=$(fetch_base_package)
	version=$(dpkg-deb -f "$deb" Version)
	if [[ -d $LINUX/.git && $(cat "$BUILD/base-version" 2>/dev/null) == "$version" ]]; then
		say "base tree is up to date: $version in $LINUX"
		return
	fi

	say "unpacking $(basename "$deb")"
	rm -rf "$BUILD/import" "$BUILD/import.index"
	mkdir -p "$BUILD/import"
	dpkg-deb --fsys-tarfile "$deb" | tar -xOf - --wildcards './usr/src/linux-source-*.tar.xz' |
		tar -xJf - -C "$BUILD/import" || die $E_ENV "cannot unpack $deb under $BUILD: disk full?"
	src=$(echo "$BUILD"/import/linux-source-*)
	is_kernel_tree "$src" || die $E_ENV "$deb holds no kernel tree"

	say "importing into git"
	if [[ -d $LINUX/.git ]]; then
		# A newer version beside the old one; commits on "stack" stay where they are.
		commit=$(GIT_DIR=$LINUX/.git import_tree "$src" "Linux $version")
		git -C "$LINUX" tag -f base "$commit" >/dev/null
		say "base moved to $version; scripts/stack rebase takes the commits of \"stack\" there"
	else
		git -C "$src" init -q -b stack
		commit=$(GIT_DIR=$src/.git import_tree "$src" "Linux $version")
		git -C "$src" tag base "$commit"
		git -C "$src" update-ref HEAD "$commit"
		mv "$BUILD/import.index" "$src/.git/index"
		git -C "$src" config rebase.updateRefs true
		git -C "$src" config gc.auto 0
		git -C "$src" update-index -q --refresh || true
		mv "$src" "$LINUX"
	fi
	rm -rf "$BUILD/import" "$BUILD/import.index"
	printf '%s\n' "$version" >"$BUILD/base-version"
	say "base tree: $version in $LINUX"
}
