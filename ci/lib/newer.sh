# shellcheck shell=bash
# Programs that are newer than this machine's, compilers and emulators: packages of another suite, unpacked
# below $CACHE and started through the libc that they were built for. Nothing of the system changes.
# Sourced after scripts/common.sh.

# The compilers that "make check" tries beside this machine's own.
readonly NEWER_SUITE=trixie NEWER_GCC=gcc-14 NEWER_CLANG=clang-19

# unpack_package SUITE PACKAGE: prints the directory that holds PACKAGE and all it depends on.
unpack_package() {
	local root=$CACHE/deb/$2.$1 deb log=$BUILD/apt/$2.log new

	if [[ ! -f $root/complete ]]; then
		need_disk 1500 "$2"
		mkdir -p "$BUILD/apt"
		say "downloading $2 of $1"
		new=$root.new
		rm -rf "$root" "$new" && mkdir -p "$new/debs/partial"
		# Nothing counts as installed: all it depends on comes along.
		: >"$new/status"
		(private_apt "$1" apt-get update &&
			private_apt "$1" apt-get -o Dir::State::status="$new/status" -o Dir::Cache::archives="$new/debs" \
				-o Debug::NoLocking=1 -y --download-only --no-install-recommends install "$2") >"$log" 2>&1 ||
			die $E_ENV "cannot download $2 of $1: $(apt_error "$log")"
		for deb in "$new"/debs/*.deb; do
			dpkg-deb -x "$deb" "$new" || die $E_ENV "cannot unpack $deb: disk full?"
		done
		rm -r "$new/debs" "$new/status"
		touch "$new/complete"
		mv "$new" "$root"
	fi
	printf '%s\n' "$root"
}

# write_starter FILE ROOT PROGRAM ARG...: makes FILE a script that starts PROGRAM of ROOT with ARG... first.
write_starter() {
	local file=$1 lib
	lib=$2/usr/lib/$(gcc -print-multiarch)

	mkdir -p "$(dirname "$file")"
	{
		echo '#!/bin/sh'
		printf 'exec'
		printf ' %q' "$lib"/ld-linux*.so.* --library-path "$lib" "$2/$3" "${@:4}"
		# shellcheck disable=SC2016 # the script's own
		echo ' "$@"'
	} >"$file.new"
	chmod +x "$file.new"
	mv "$file.new" "$file"
}

# newer_gcc: prints the path of a gcc of $NEWER_SUITE. It compiles and assembles; it doesn't link.
newer_gcc() {
	local root bin target libexec

	root=$(unpack_package "$NEWER_SUITE" "$NEWER_GCC") || exit $?
	bin=$root/starters target=$(uname -m)-linux-gnu
	libexec=usr/libexec/gcc/$target/${NEWER_GCC#gcc-}
	write_starter "$bin/cc1" "$root" "$libexec/cc1"
	write_starter "$bin/as" "$root" "usr/bin/$target-as"
	write_starter "$bin/gcc" "$root" "usr/bin/$target-$NEWER_GCC" -B "$bin/" \
		-isystem "$root/usr/lib/gcc/$target/${NEWER_GCC#gcc-}/include"
	printf '%s\n' "$bin/gcc"
}

# newer_clang: prints the path of a clang of $NEWER_SUITE, for all architectures. For some sources it
# starts itself again, by the name it was started with: that must be the starter's.
newer_clang() {
	local root version=${NEWER_CLANG#clang-} lib start llvm

	root=$(unpack_package "$NEWER_SUITE" "$NEWER_CLANG") || exit $?
	lib=$root/usr/lib/$(gcc -print-multiarch) llvm=$root/usr/lib/llvm-$version start=$root/starters/clang
	mkdir -p "$root/starters"
	# shellcheck disable=SC2016 # the script's own
	printf '#!/bin/sh\ncase $1 in -cc1*) exec %q --library-path %q %q "$@" ;; esac\nexec %q --argv0 "$0" --library-path %q %q -no-canonical-prefixes -resource-dir %q "$@"\n' \
		"$lib"/ld-linux*.so.* "$lib" "$llvm/bin/clang" \
		"$lib"/ld-linux*.so.* "$lib" "$llvm/bin/clang" "$llvm/lib/clang/$version" >"$start.new"
	chmod +x "$start.new"
	mv "$start.new" "$start"
	printf '%s\n' "$start"
}
